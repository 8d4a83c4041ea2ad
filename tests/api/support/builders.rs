//! Builders of valid requests, and assertions on errors.

use elephantasm_events::grpc::pb::event_service_client::EventServiceClient;
use elephantasm_events::grpc::pb::{
    CreateEventRequest, CreateSpiritRequest, Event, GetEventRequest, ListEventsRequest, Spirit,
    StreamSessionEventsRequest, StreamSessionEventsResponse, stream_session_events_response::Item,
};
use prost_types::value::Kind;
use prost_types::{FieldMask, Struct, Timestamp, Value};
use sqlx::{Connection as _, PgConnection, Postgres, Transaction};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};
use tonic_types::StatusExt as _;
use uuid::Uuid;

use crate::support::citus;
use crate::support::harness::{TestServer, eventually};

/// A create with the required fields only.
pub fn event(spirit_id: &str) -> CreateEventRequest {
    CreateEventRequest {
        spirit_id: spirit_id.to_owned(),
        event_type: "message.in".to_owned(),
        content: Some("hello".to_owned()),
        ..CreateEventRequest::default()
    }
}

/// A create in a session, with `occurred_at` in seconds.
pub fn event_at(spirit_id: &str, session_id: &str, seconds: i64) -> CreateEventRequest {
    CreateEventRequest {
        session_id: Some(session_id.to_owned()),
        occurred_at: Some(at(seconds)),
        ..event(spirit_id)
    }
}

/// A create with a dedupe key.
pub fn keyed(spirit_id: &str, dedupe_key: &str) -> CreateEventRequest {
    CreateEventRequest {
        dedupe_key: Some(dedupe_key.to_owned()),
        ..event(spirit_id)
    }
}

pub fn list(spirit_id: &str) -> ListEventsRequest {
    ListEventsRequest {
        spirit_id: spirit_id.to_owned(),
        ..ListEventsRequest::default()
    }
}

pub fn stream(spirit_id: &str, session_id: &str) -> StreamSessionEventsRequest {
    StreamSessionEventsRequest {
        spirit_id: spirit_id.to_owned(),
        session_id: session_id.to_owned(),
        ..StreamSessionEventsRequest::default()
    }
}

/// A timestamp of whole seconds since 1970.
pub fn at(seconds: i64) -> Timestamp {
    Timestamp { seconds, nanos: 0 }
}

pub fn number(number: f64) -> Value {
    Value {
        kind: Some(Kind::NumberValue(number)),
    }
}

pub fn text(text: &str) -> Value {
    Value {
        kind: Some(Kind::StringValue(text.to_owned())),
    }
}

pub fn object<const N: usize>(fields: [(&str, Value); N]) -> Struct {
    Struct {
        fields: fields
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect(),
    }
}

/// Creates an event and returns it.
pub async fn create(client: &mut EventServiceClient<Channel>, request: CreateEventRequest) -> Event {
    client
        .create_event(request)
        .await
        .unwrap()
        .into_inner()
        .event
        .unwrap()
}

/// A request for an event by its id alone.
pub fn get(event_id: &str) -> GetEventRequest {
    GetEventRequest {
        event_id: event_id.to_owned(),
        ..GetEventRequest::default()
    }
}

/// Reads an event by its id.
pub async fn stored_event(client: &mut EventServiceClient<Channel>, event_id: &str) -> Event {
    let response = client.get_event(get(event_id)).await.unwrap();
    response.into_inner().event.unwrap()
}

/// Reads a replay to its end; returns the events with their cursors.
pub async fn drain(
    mut stream: Streaming<StreamSessionEventsResponse>,
) -> Result<Vec<(Event, String)>, Status> {
    let mut items = Vec::new();
    while let Some(StreamSessionEventsResponse { item, cursor }) = stream.message().await? {
        let Some(Item::Event(event)) = item else {
            panic!("an item without an event")
        };
        items.push((event, cursor));
    }
    Ok(items)
}

/// Asserts that a call failed with this code and reason; returns its status.
#[track_caller]
pub fn refused<T>(result: Result<T, Status>, code: Code, reason: &str) -> Status {
    let Err(status) = result else {
        panic!("expected {reason}, got OK")
    };
    assert_eq!(status.code(), code, "{status:?}");
    let info = status
        .get_details_error_info()
        .expect("every error has ErrorInfo");
    assert_eq!(
        (info.reason.as_str(), info.domain.as_str()),
        (reason, "events.elephantasm"),
        "{status:?}"
    );
    assert!(!status.message().is_empty());
    status
}

/// Asserts that a call failed with INVALID_FIELD; returns the fields that it names, in order.
#[track_caller]
pub fn bad_fields<T>(result: Result<T, Status>) -> Vec<String> {
    let status = refused(result, Code::InvalidArgument, "INVALID_FIELD");
    let bad_request = status.get_details_bad_request().expect("BadRequest");
    bad_request
        .field_violations
        .into_iter()
        .map(|violation| violation.field)
        .collect()
}

/// A value from the metadata of an error's ErrorInfo.
#[track_caller]
pub fn metadata(status: &Status, key: &str) -> String {
    let info = status.get_details_error_info().expect("ErrorInfo");
    info.metadata
        .get(key)
        .unwrap_or_else(|| panic!("no {key} in {info:?}"))
        .clone()
}

/// Locks a spirit's row from outside the service, until the transaction ends.
pub async fn lock_spirit<'c>(connection: &'c mut PgConnection, spirit_id: &str) -> Transaction<'c, Postgres> {
    let mut transaction = connection.begin().await.unwrap();
    sqlx::query("select id from spirits where id = $1 for update")
        .bind(spirit_id.parse::<Uuid>().unwrap())
        .execute(&mut *transaction)
        .await
        .unwrap();
    transaction
}

/// The backends of the database that wait for a lock.
pub async fn blocked_backends(connection: &mut PgConnection) -> Vec<i32> {
    // On a cluster they wait for a worker, which waits for the lock.
    let select = if citus::is_wanted() {
        "select pid
         from citus_lock_waits
         join pg_stat_activity on pid = citus_pid_for_gpid(waiting_gpid)
         where datname = current_database()
         group by pid"
    } else {
        "select pid
         from pg_stat_activity
         where datname = current_database()
         and wait_event_type = 'Lock'"
    };
    sqlx::query_scalar(select).fetch_all(connection).await.unwrap()
}

/// Number of the server's statements that wait for a lock.
pub async fn blocked_statements(connection: &mut PgConnection) -> usize {
    blocked_backends(connection).await.len()
}

/// Waits until this many of the server's statements wait for a lock.
pub async fn statements_are_blocked(server: &TestServer, count: usize) {
    let mut connection = server.database.connect().await;
    eventually("statements wait for a lock", async || {
        (blocked_statements(&mut connection).await == count).then_some(())
    })
    .await;
}

/// Waits until a statement of the server waits for a lock.
pub async fn a_statement_is_blocked(server: &TestServer) {
    let mut connection = server.database.connect().await;
    eventually("a statement waits for a lock", async || {
        (blocked_statements(&mut connection).await > 0).then_some(())
    })
    .await;
}

/// Inserts events of 1 KB into the session `s` of a new spirit, bypassing the service.
pub async fn insert_events(server: &TestServer, spirit_id: &str, count: i64) {
    let mut connection = server.database.connect().await;
    sqlx::query(
        "insert into events (id, spirit_id, sequence, event_type, content, occurred_at, session_id)
         select gen_random_uuid(), $1::text::uuid, n, 'message.in', repeat('x', 1000), to_timestamp(n), 's'
         from generate_series(1, $2) as n",
    )
    .bind(spirit_id)
    .bind(count)
    .execute(&mut connection)
    .await
    .unwrap();
    sqlx::query("update spirits set last_sequence = $2 where id = $1::text::uuid")
        .bind(spirit_id)
        .bind(count)
        .execute(&mut connection)
        .await
        .unwrap();
}

/// The request with `x-consistency: strong`, so that a read sees every acknowledged write.
pub fn strong<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("x-consistency", MetadataValue::from_static("strong"));
    request
}

/// An update mask with these paths.
#[allow(clippy::unnecessary_wraps)] // the type of the request's field
pub fn mask(paths: &[&str]) -> Option<FieldMask> {
    Some(FieldMask {
        paths: paths.iter().map(|path| (*path).to_owned()).collect(),
    })
}

/// Creates a spirit and returns it.
pub async fn create_spirit(server: &TestServer, request: CreateSpiritRequest) -> Spirit {
    let response = server.spirits().create_spirit(request).await.unwrap();
    response.into_inner().spirit.unwrap()
}
