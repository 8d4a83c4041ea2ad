//! Keys: which are taken, when they end, and what they cost where there are none.

use std::sync::Arc;
use std::time::Duration;

use elephantasm_events::domain::access::Role;
use elephantasm_events::grpc::Reflection;
use elephantasm_events::grpc::pb::batch_create_events_result::Result as BatchItem;
use elephantasm_events::grpc::pb::ingest_events_response::Result as IngestItem;
use elephantasm_events::grpc::pb::{
    BatchCreateEventsRequest, BatchMode, CountSpiritsRequest, IngestEventsRequest, ListSpiritsRequest,
    StreamSessionEventsRequest, WatchEventsRequest,
};
use elephantasm_events::store::embedded::{EmbeddedPostgres, Options};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1 as reflection;
use tonic_types::StatusExt as _;
use uuid::Uuid;

use crate::access::{Caller, Guarded, Keys, showing};
use crate::builders::{event, keyed, metadata, refused, stream};
use crate::harness::{Database, TestServer, eventually, reachable_dir};
use crate::live::Reader;

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

#[tokio::test]
async fn items_of_foreign_spirits_are_refused_as_those_of_unknown_ones() {
    let guarded = Guarded::start().await;
    let (own, foreign) = (
        guarded.admin.spirit("own").await,
        guarded.admin.spirit("foreign").await,
    );
    let writer = guarded.caller(Role::Writer, &[&own]).await;
    let items = [
        event(&own),
        event(&foreign),
        keyed(&own, "k"),
        keyed(&own, "k"),
        event(&Uuid::nil().to_string()),
    ];

    let request = BatchCreateEventsRequest {
        requests: items.to_vec(),
        mode: BatchMode::Atomic.into(),
    };
    let atomic = writer.events().batch_create_events(request.clone()).await;
    let status = refused(atomic, Code::NotFound, "SPIRIT_NOT_FOUND");
    assert_eq!(metadata(&status, "failed_indexes"), "1,3,4");
    let told = status.get_details_resource_info().expect("ResourceInfo");
    assert_eq!(told.resource_name, foreign);
    assert!(status.message().starts_with("requests[1]: "), "{status:?}");

    let request = BatchCreateEventsRequest {
        mode: BatchMode::Partial.into(),
        ..request
    };
    let partial = writer
        .events()
        .batch_create_events(request)
        .await
        .unwrap()
        .into_inner();
    let codes = partial
        .results
        .into_iter()
        .map(|result| match result.result.unwrap() {
            BatchItem::Created(_) => Code::Ok,
            BatchItem::Error(error) => error.code.into(),
        });
    let expected = [
        Code::Ok,
        Code::NotFound,
        Code::Ok,
        Code::AlreadyExists,
        Code::NotFound,
    ];
    assert_eq!(codes.collect::<Vec<_>>(), expected);

    let requests = items.map(|item| IngestEventsRequest {
        create: Some(item),
        ..Default::default()
    });
    let replies = writer.events().ingest_events(tokio_stream::iter(requests)).await;
    let mut replies = replies.unwrap().into_inner();
    let mut codes = Vec::new();
    while let Some(reply) = replies.message().await.unwrap() {
        codes.push(match reply.result.unwrap() {
            IngestItem::Receipt(_) => Code::Ok,
            IngestItem::Error(error) => error.code.into(),
        });
    }
    let expected = [
        Code::Ok,
        Code::NotFound,
        Code::AlreadyExists,
        Code::AlreadyExists,
        Code::NotFound,
    ];
    assert_eq!(codes, expected);
}

#[tokio::test]
async fn a_limited_key_lists_and_counts_its_own_spirits_page_by_page() {
    let guarded = Guarded::start().await;
    let mut ids = Vec::new();
    for name in ["Ada", "Bert", "Adam", "Cleo", "Adele", "Dora"] {
        ids.push(guarded.admin.spirit(name).await);
    }
    let own: Vec<&str> = [0, 1, 2, 4].map(|at| ids[at].as_str()).into();
    let reader = guarded.caller(Role::Reader, &own).await;
    for (name_contains, expected) in [
        (None, vec!["Adele", "Adam", "Bert", "Ada"]),
        (Some("ad"), vec!["Ada", "Adam", "Adele"]),
        (Some("cleo"), vec![]),
    ] {
        let mut request = ListSpiritsRequest {
            name_contains: name_contains.map(str::to_owned),
            page_size: 2,
            ..Default::default()
        };
        let mut names = Vec::new();
        loop {
            let page = reader
                .spirits()
                .list_spirits(request.clone())
                .await
                .unwrap()
                .into_inner();
            names.extend(page.spirits.iter().map(|spirit| spirit.name().to_owned()));
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        assert_eq!(names, expected, "{name_contains:?}");
    }
    for (caller, count) in [(&reader, 4), (&guarded.admin, 6)] {
        let counted = caller
            .spirits()
            .count_spirits(CountSpiritsRequest::default())
            .await;
        assert_eq!(counted.unwrap().into_inner().count, count);
    }
}

#[tokio::test]
async fn a_key_over_its_calls_is_told_when_to_come_again() {
    let guarded =
        Guarded::start_with(|settings| settings.server.auth.key_limits.calls_per_second = Some(2)).await;
    let other = guarded
        .keys
        .make(Role::Reader, None, None)
        .await
        .at(&guarded.server);
    let status = eventually("too many calls", async || guarded.admin.call().await.err()).await;
    let status = refused(Err::<(), _>(status), Code::ResourceExhausted, "OVERLOADED");
    let pause = status
        .get_details_retry_info()
        .expect("RetryInfo")
        .retry_delay
        .expect("a pause");
    assert!(pause <= Duration::from_millis(500), "{pause:?}");
    other.call().await.expect("each key has its own calls");
    tokio::time::sleep(pause).await; // what the error says
    guarded.admin.call().await.unwrap();
}

#[tokio::test]
async fn a_key_over_its_streams_is_refused_until_one_ends() {
    let guarded = Guarded::start_with(|settings| settings.server.auth.key_limits.streams = Some(2)).await;
    let spirit_id = guarded.admin.spirit("Ada").await;
    let other = guarded.caller(Role::Reader, &[&spirit_id]).await;
    let watch = || WatchEventsRequest {
        spirit_id: spirit_id.clone(),
        ..Default::default()
    };
    let mut open = Vec::new();
    for _ in 0..2 {
        open.push(guarded.admin.events().watch_events(watch()).await.unwrap());
    }
    let status = refused(
        guarded.admin.events().watch_events(watch()).await,
        Code::ResourceExhausted,
        "OVERLOADED",
    );
    assert!(status.get_details_retry_info().is_some());
    other
        .events()
        .watch_events(watch())
        .await
        .expect("each key has its own streams");
    guarded.admin.call().await.expect("calls are no streams");
    drop(open.pop());
    eventually("there is a place again", async || {
        guarded.admin.events().watch_events(watch()).await.ok()
    })
    .await;
}

#[tokio::test]
async fn without_keys_the_limits_are_everybodys_together() {
    let server = TestServer::start_with(|settings| settings.server.auth.key_limits.streams = Some(1)).await;
    let spirit_id = server.spirit().await;
    let watch = || WatchEventsRequest {
        spirit_id: spirit_id.clone(),
        ..Default::default()
    };
    let _open = server.events().watch_events(watch()).await.unwrap();
    refused(
        server.events().watch_events(watch()).await,
        Code::ResourceExhausted,
        "OVERLOADED",
    );
}
