//! Keys: which are taken, when they end, and what they cost where there are none.

use std::sync::Arc;
use std::time::Duration;

use elephantasm_events::domain::access::Role;
use elephantasm_events::embedded_postgres::{EmbeddedPostgres, Options};
use elephantasm_events::grpc::Reflection;
use elephantasm_events::grpc::pb::{
    IngestEventsRequest, ListSpiritsRequest, StreamSessionEventsRequest, WatchEventsRequest,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1 as reflection;
use uuid::Uuid;

use crate::support::access::{Caller, Guarded, Keys, showing};
use crate::support::builders::{event, refused, stream};
use crate::support::harness::{Database, TestServer, eventually, reachable_dir};
use crate::support::live::Reader;

#[tokio::test]
async fn a_call_without_a_good_key_is_refused() {
    let guarded = Guarded::start().await;
    let bare = guarded
        .server
        .spirits()
        .list_spirits(ListSpiritsRequest::default())
        .await;
    refused(bare, Code::Unauthenticated, "MISSING_KEY");

    let good = &guarded.admin.key.text;
    let (prefix, secret) = good.rsplit_once('_').unwrap();
    let other = Guarded::start().await.admin.key.text;
    let (_, other_secret) = other.rsplit_once('_').unwrap();
    // The good key is known by now, so that a wrong secret meets the cache, too.
    guarded.admin.call().await.unwrap();
    for (what, shown) in [
        ("nothing", String::new()),
        ("no scheme", good.clone()),
        ("another scheme", format!("Basic {good}")),
        ("no key", "Bearer ".to_owned()),
        ("half a key", format!("Bearer {prefix}")),
        ("an unknown key", format!("Bearer {other}")),
        ("the secret of another", format!("Bearer {prefix}_{other_secret}")),
        (
            "the prefix of another",
            format!("Bearer {}_{secret}", &other[..prefix.len()]),
        ),
        ("more than a key", format!("Bearer {good}0")),
    ] {
        let mut events = elephantasm_events::grpc::pb::event_service_client::EventServiceClient::new(
            showing(&guarded.server, &shown),
        );
        let status = refused(
            events.create_event(event(&Uuid::now_v7().to_string())).await,
            Code::Unauthenticated,
            "INVALID_KEY",
        );
        let told = format!("{status:?}");
        assert!(
            !told.contains(secret) && !told.contains(other_secret),
            "{what}: {told}"
        );
    }
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let channel = showing(&guarded.server, &format!("{scheme} {good}"));
        let mut spirits =
            elephantasm_events::grpc::pb::spirit_service_client::SpiritServiceClient::new(channel);
        spirits.list_spirits(ListSpiritsRequest::default()).await.unwrap();
    }
}

/// The streams that one can have open.
async fn streams(caller: &Caller, spirit_id: &str) -> Vec<Open> {
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
        Open::Follow(events.stream_session_events(follow).await.unwrap().into_inner()),
        Open::Watch(events.watch_events(watch).await.unwrap().into_inner()),
    ];
    let ingest = events.ingest_events(ReceiverStream::new(requests)).await.unwrap();
    open.push(Open::Ingest(ingest.into_inner(), items));
    open
}

enum Open {
    Follow(Streaming<elephantasm_events::grpc::pb::StreamSessionEventsResponse>),
    Watch(Streaming<elephantasm_events::grpc::pb::WatchEventsResponse>),
    Ingest(
        Streaming<elephantasm_events::grpc::pb::IngestEventsResponse>,
        mpsc::Sender<IngestEventsRequest>,
    ),
}

impl Open {
    /// What ends it.
    async fn end(self) -> Result<(), Status> {
        match self {
            Self::Follow(stream) => Reader(stream).rest().await.1,
            Self::Watch(stream) => Reader(stream).rest().await.1,
            Self::Ingest(mut stream, _items) => stream.message().await.map(|_| ()),
        }
    }
}

#[tokio::test]
async fn the_first_key_closes_a_running_server_and_revoking_all_does_not_open_it_again() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let watch = WatchEventsRequest {
        spirit_id,
        ..Default::default()
    };
    let open = Reader(server.events().watch_events(watch).await.unwrap().into_inner());

    let keys = Keys::of(&server.database).await;
    let caller = keys.make(Role::Reader, None, None).await.at(&server);
    let closed = eventually("the server asks for a key", async || {
        let bare = server.spirits().list_spirits(ListSpiritsRequest::default()).await;
        bare.err()
    })
    .await;
    refused(Err::<(), _>(closed), Code::Unauthenticated, "MISSING_KEY");
    refused(open.rest().await.1, Code::Unauthenticated, "MISSING_KEY");
    caller.call().await.unwrap();

    keys.revoke(&caller.key).await;
    caller.refused().await;
    let later = TestServer::start_on(Arc::clone(&server.database), |_| {}).await;
    for server in [&server, &later] {
        let bare = server.spirits().list_spirits(ListSpiritsRequest::default()).await;
        refused(bare, Code::Unauthenticated, "MISSING_KEY");
    }
}

#[tokio::test]
async fn a_revoked_key_ends_its_calls_and_streams_on_every_instance_and_no_others() {
    let guarded = Guarded::start().await;
    let second = TestServer::start_on(Arc::clone(&guarded.server.database), |_| {}).await;
    let spirit_id = guarded.admin.spirit("Ada").await;
    let caller = guarded.caller(Role::Writer, &[&spirit_id]).await;
    let elsewhere = caller.key.at(&second);
    let mut open = streams(&caller, &spirit_id).await;
    open.extend(streams(&elsewhere, &spirit_id).await);
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
    caller.refused().await;
    elsewhere.refused().await;
    guarded.admin.event(&spirit_id).await;
    others.caught_up().await;
    assert_eq!(others.sequences(1).await, [1], "other keys' streams go on");
}

#[tokio::test]
async fn a_key_ends_with_its_time() {
    let guarded = Guarded::start().await;
    let spirit_id = guarded.admin.spirit("Ada").await;
    let time = Some(Duration::from_secs(2));
    let key = guarded.keys.make(Role::Writer, Some(&[&spirit_id]), time).await;
    let caller = key.at(&guarded.server);
    for stream in streams(&caller, &spirit_id).await {
        refused(stream.end().await, Code::Unauthenticated, "INVALID_KEY");
    }
    refused(caller.call().await, Code::Unauthenticated, "INVALID_KEY");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_cannot_be_looked_up_is_no_wrong_key() {
    let dir = reachable_dir();
    let postgres = EmbeddedPostgres::start(Options {
        data_dir: dir.path().join("data"),
        bin_dir: std::env::var_os("PG_BIN_DIR").map(Into::into),
        settings: vec![("fsync".to_owned(), "off".to_owned())],
    })
    .await
    .unwrap();
    let database = Arc::new(Database::elsewhere(postgres.connect_options("postgres")));
    let keys = Keys::of(&database).await;
    let key = keys.make(Role::Reader, None, None).await;
    let server = TestServer::start_on(database, |_| {}).await;
    let caller = key.at(&server);
    drop(keys);
    postgres.stop().await.unwrap();
    refused(caller.call().await, Code::Unavailable, "DATABASE_UNAVAILABLE");
    // What needs no database to be known is told all the same.
    let bare = server.spirits().list_spirits(ListSpiritsRequest::default()).await;
    refused(bare, Code::Unauthenticated, "MISSING_KEY");
}

#[tokio::test]
async fn health_needs_no_key() {
    let guarded = Guarded::start().await;
    let mut health = HealthClient::new(guarded.server.channel());
    health.check(HealthCheckRequest::default()).await.unwrap();
    let mut watch = health
        .watch(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(watch.message().await.unwrap().is_some());
}

/// The names that reflection lists over a channel.
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
async fn reflection_is_open_keyed_or_off_as_it_is_set() {
    for (set, bare, with_key) in [
        (Reflection::Open, Code::Ok, Code::Ok),
        (Reflection::Keyed, Code::Unauthenticated, Code::Ok),
        (Reflection::Off, Code::Unauthenticated, Code::Unimplemented),
    ] {
        let guarded = Guarded::start_with(|settings| settings.server.auth.reflection = set).await;
        let code = |listed: Result<(), Status>| listed.map_or_else(|status| status.code(), |()| Code::Ok);
        assert_eq!(code(list_services!(guarded.server.channel())), bare, "{set:?}");
        assert_eq!(
            code(list_services!(guarded.admin.channel.clone())),
            with_key,
            "{set:?}"
        );
    }
    let server = TestServer::start_with(|settings| settings.server.auth.reflection = Reflection::Off).await;
    let off = list_services!(server.channel()).unwrap_err();
    assert_eq!(off.code(), Code::Unimplemented);
}
