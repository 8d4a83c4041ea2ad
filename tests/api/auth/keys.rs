//! API keys: acceptance, revocation and expiry, and the services that need no key.

use std::sync::Arc;
use std::time::Duration;

use elephantasm_events::config::Reflection;
use elephantasm_events::domain::access::Role;
use elephantasm_events::embedded_postgres::{EmbeddedPostgres, Options};
use elephantasm_events::grpc::pb::event_service_client::EventServiceClient;
use elephantasm_events::grpc::pb::spirit_service_client::SpiritServiceClient;
use elephantasm_events::grpc::pb::{
    IngestEventsRequest, IngestEventsResponse, ListSpiritsRequest, StreamSessionEventsRequest,
    StreamSessionEventsResponse, WatchEventsRequest, WatchEventsResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1 as reflection;
use uuid::Uuid;

use crate::support::access::{Caller, KeyedServer, Keys, channel_with_authorization};
use crate::support::builders::{event, refused, stream};
use crate::support::harness::{Database, TestServer, eventually, reachable_dir};
use crate::support::live::Reader;

#[tokio::test]
async fn a_call_without_a_valid_api_key_is_rejected() {
    let guarded = KeyedServer::start().await;
    let without_key = guarded
        .server
        .spirits()
        .list_spirits(ListSpiritsRequest::default())
        .await;
    refused(without_key, Code::Unauthenticated, "MISSING_KEY");

    let valid = &guarded.admin.key.text;
    let (prefix, secret) = valid.rsplit_once('_').unwrap();
    let other = KeyedServer::start().await.admin.key.text;
    let (_, other_secret) = other.rsplit_once('_').unwrap();
    // Caches the valid key, so that a wrong secret is checked against the cache, too.
    guarded.admin.call().await.unwrap();
    for (case, header) in [
        ("an empty header", String::new()),
        ("no scheme", valid.clone()),
        ("another scheme", format!("Basic {valid}")),
        ("no key", "Bearer ".to_owned()),
        ("a prefix without a secret", format!("Bearer {prefix}")),
        ("an unknown key", format!("Bearer {other}")),
        (
            "the secret of another key",
            format!("Bearer {prefix}_{other_secret}"),
        ),
        (
            "the prefix of another key",
            format!("Bearer {}_{secret}", &other[..prefix.len()]),
        ),
        ("a key with a suffix", format!("Bearer {valid}0")),
    ] {
        let mut events = EventServiceClient::new(channel_with_authorization(&guarded.server, &header));
        let status = refused(
            events.create_event(event(&Uuid::now_v7().to_string())).await,
            Code::Unauthenticated,
            "INVALID_KEY",
        );
        let error = format!("{status:?}");
        assert!(
            !error.contains(secret) && !error.contains(other_secret),
            "{case}: the error contains a secret: {error}"
        );
    }
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let channel = channel_with_authorization(&guarded.server, &format!("{scheme} {valid}"));
        let mut spirits = SpiritServiceClient::new(channel);
        spirits.list_spirits(ListSpiritsRequest::default()).await.unwrap();
    }
}

/// Opens a stream of each kind.
async fn open_streams(caller: &Caller, spirit_id: &str) -> Vec<OpenStream> {
    let follow = StreamSessionEventsRequest {
        follow: true,
        ..stream(spirit_id, "none")
    };
    let watch = WatchEventsRequest {
        spirit_id: spirit_id.to_owned(),
        ..Default::default()
    };
    let mut events = caller.events();
    let (items, requests) = mpsc::channel(1);
    let mut open = vec![
        OpenStream::Follow(events.stream_session_events(follow).await.unwrap().into_inner()),
        OpenStream::Watch(events.watch_events(watch).await.unwrap().into_inner()),
    ];
    let ingest = events.ingest_events(ReceiverStream::new(requests)).await.unwrap();
    open.push(OpenStream::Ingest(ingest.into_inner(), items));
    open
}

enum OpenStream {
    Follow(Streaming<StreamSessionEventsResponse>),
    Watch(Streaming<WatchEventsResponse>),
    Ingest(Streaming<IngestEventsResponse>, mpsc::Sender<IngestEventsRequest>),
}

impl OpenStream {
    /// Waits for the end of the stream and returns its status.
    async fn end(self) -> Result<(), Status> {
        match self {
            Self::Follow(stream) => Reader(stream).rest().await.1,
            Self::Watch(stream) => Reader(stream).rest().await.1,
            Self::Ingest(mut stream, _items) => stream.message().await.map(|_| ()),
        }
    }
}

#[tokio::test]
async fn the_first_api_key_turns_authentication_on_and_its_revocation_does_not_turn_it_off() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let watch = WatchEventsRequest {
        spirit_id,
        ..Default::default()
    };
    let open = Reader(server.events().watch_events(watch).await.unwrap().into_inner());

    let keys = Keys::open(&server.database).await;
    let caller = keys.create(Role::Reader, None, None).await.caller(&server);
    let closed = eventually("the server requires a key", async || {
        let without_key = server.spirits().list_spirits(ListSpiritsRequest::default()).await;
        without_key.err()
    })
    .await;
    refused(Err::<(), _>(closed), Code::Unauthenticated, "MISSING_KEY");
    refused(open.rest().await.1, Code::Unauthenticated, "MISSING_KEY");
    caller.call().await.unwrap();

    keys.revoke(&caller.key).await;
    caller.wait_until_refused().await;
    let started_later = TestServer::start_on(Arc::clone(&server.database), |_| {}).await;
    for server in [&server, &started_later] {
        let without_key = server.spirits().list_spirits(ListSpiritsRequest::default()).await;
        refused(without_key, Code::Unauthenticated, "MISSING_KEY");
    }
}

#[tokio::test]
async fn revoking_a_key_ends_its_calls_and_streams_on_every_instance_and_no_others() {
    let guarded = KeyedServer::start().await;
    let second = TestServer::start_on(Arc::clone(&guarded.server.database), |_| {}).await;
    let spirit_id = guarded.admin.spirit("Ada").await;
    let caller = guarded.caller(Role::Writer, &[&spirit_id]).await;
    let caller_at_second = caller.key.caller(&second);
    let mut open = open_streams(&caller, &spirit_id).await;
    open.extend(open_streams(&caller_at_second, &spirit_id).await);
    let watch = WatchEventsRequest {
        spirit_id: spirit_id.clone(),
        ..Default::default()
    };
    let others = guarded.admin.events().watch_events(watch).await.unwrap();
    let mut others = Reader(others.into_inner());

    guarded.keys.revoke(&caller.key).await;
    for stream in open {
        refused(stream.end().await, Code::Unauthenticated, "INVALID_KEY");
    }
    caller.wait_until_refused().await;
    caller_at_second.wait_until_refused().await;
    guarded.admin.event(&spirit_id).await;
    others.caught_up().await;
    assert_eq!(others.sequences(1).await, [1], "the stream of another key ended");
}

#[tokio::test]
async fn an_expired_key_ends_its_streams_and_rejects_its_calls() {
    let guarded = KeyedServer::start().await;
    let spirit_id = guarded.admin.spirit("Ada").await;
    let expires_in = Some(Duration::from_secs(2));
    let key = guarded
        .keys
        .create(Role::Writer, Some(&[&spirit_id]), expires_in)
        .await;
    let caller = key.caller(&guarded.server);
    for stream in open_streams(&caller, &spirit_id).await {
        refused(stream.end().await, Code::Unauthenticated, "INVALID_KEY");
    }
    refused(caller.call().await, Code::Unauthenticated, "INVALID_KEY");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_lookup_without_a_database_fails_as_unavailable_and_not_as_an_invalid_key() {
    let dir = reachable_dir();
    let postgres = EmbeddedPostgres::start(Options {
        data_dir: dir.path().join("data"),
        bin_dir: std::env::var_os("PG_BIN_DIR").map(Into::into),
        settings: vec![("fsync".to_owned(), "off".to_owned())],
    })
    .await
    .unwrap();
    let database = Arc::new(Database::external(postgres.connect_options("postgres")));
    let keys = Keys::open(&database).await;
    let key = keys.create(Role::Reader, None, None).await;
    let server = TestServer::start_on(database, |_| {}).await;
    let caller = key.caller(&server);
    drop(keys);
    postgres.stop().await.unwrap();
    refused(caller.call().await, Code::Unavailable, "DATABASE_UNAVAILABLE");
    // A missing key is detected without the database.
    let without_key = server.spirits().list_spirits(ListSpiritsRequest::default()).await;
    refused(without_key, Code::Unauthenticated, "MISSING_KEY");
}

#[tokio::test]
async fn health_checks_need_no_api_key() {
    let guarded = KeyedServer::start().await;
    let mut health = HealthClient::new(guarded.server.channel());
    health.check(HealthCheckRequest::default()).await.unwrap();
    let mut watch = health
        .watch(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(watch.message().await.unwrap().is_some());
}

/// Lists the services by reflection over a channel.
macro_rules! list_services {
    ($channel:expr) => {{
        use reflection::server_reflection_request::MessageRequest;
        let request = reflection::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let mut client = reflection::server_reflection_client::ServerReflectionClient::new($channel);
        client
            .server_reflection_info(tokio_stream::once(request))
            .await
            .map(|_| ())
    }};
}

#[tokio::test]
async fn reflection_is_open_keyed_or_off_according_to_its_setting() {
    for (reflection, without_key, with_key) in [
        (Reflection::Open, Code::Ok, Code::Ok),
        (Reflection::Keyed, Code::Unauthenticated, Code::Ok),
        (Reflection::Off, Code::Unauthenticated, Code::Unimplemented),
    ] {
        let guarded = KeyedServer::start_with(|settings| settings.server.auth.reflection = reflection).await;
        let code = |listed: Result<(), Status>| listed.map_or_else(|status| status.code(), |()| Code::Ok);
        assert_eq!(
            code(list_services!(guarded.server.channel())),
            without_key,
            "{reflection:?}"
        );
        assert_eq!(
            code(list_services!(guarded.admin.channel.clone())),
            with_key,
            "{reflection:?}"
        );
    }
    let server = TestServer::start_with(|settings| settings.server.auth.reflection = Reflection::Off).await;
    let off = list_services!(server.channel()).unwrap_err();
    assert_eq!(off.code(), Code::Unimplemented);
}
