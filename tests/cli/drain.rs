//! The server is told to end under load: what was acknowledged is there, streams know where to go on, and it
//! leaves within its limit with exit code 0.

use std::time::{Duration, Instant};

use elephantasm_events::grpc::pb::event_service_client::EventServiceClient;
use elephantasm_events::grpc::pb::watch_events_request::Start;
use elephantasm_events::grpc::pb::{
    CreateEventRequest, StreamSessionEventsRequest, WatchEventsRequest, stream_session_events_request,
};
use sqlx::Connection as _;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use crate::harness::{Place, Server, event, eventually};

const CALLERS: usize = 8;
const BEFORE_THE_END: usize = 100;
/// Beyond the drain's limit: the database's own end, and a busy machine.
const LEEWAY: Duration = Duration::from_secs(5);

fn keyed(spirit_id: &str, key: &str) -> CreateEventRequest {
    CreateEventRequest {
        dedupe_key: Some(key.to_owned()),
        ..event(spirit_id)
    }
}

/// Creates events until a call fails; which must be in a way that a client retries.
async fn call(
    mut events: EventServiceClient<Channel>,
    spirit_id: String,
    caller: usize,
    acknowledge: UnboundedSender<String>,
) {
    for round in 0.. {
        let key = format!("{caller}-{round}");
        match events.create_event(keyed(&spirit_id, &key)).await {
            Ok(_) => acknowledge.send(key).unwrap(),
            Err(status) => {
                // The client has words of its own for a connection that ended before it sent the call.
                let own = std::error::Error::source(&status).is_some();
                assert!(own || status.code() == Code::Unavailable, "{status:?}");
                return;
            }
        }
    }
}

fn metadata(end: &Status, name: &str) -> String {
    assert_eq!(end.code(), Code::Unavailable, "{end:?}");
    let info = end.get_details_error_info().unwrap();
    assert_eq!(info.reason, "SHUTTING_DOWN");
    info.metadata[name].clone()
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::too_many_lines)] // one story
async fn sigterm_under_load_keeps_every_promise_within_the_limit() {
    const LIMIT: u64 = 3;
    let place = Place::new();
    let serve = ["--drain-seconds", &LIMIT.to_string()];
    let mut server = Server::run(&place, &mut place.command(&serve)).await;
    let (spirit_id, large) = (server.spirit("Ada").await, server.spirit("Large").await);
    for _ in 0..20 {
        let request = CreateEventRequest {
            content: Some("x".repeat(500_000)),
            ..event(&large)
        };
        server.events().await.create_event(request).await.unwrap();
    }

    // Silent peers, one that watches health, streams that are not read, and two live ones.
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(TcpStream::connect(&server.addr).await.unwrap());
    }
    let mut health = HealthClient::new(server.channel().await);
    let health = health.watch(HealthCheckRequest::default()).await.unwrap();
    let mut stalled = Vec::new();
    for _ in 0..5 {
        let request = StreamSessionEventsRequest {
            spirit_id: large.clone(),
            session_id: "s".to_owned(),
            ..StreamSessionEventsRequest::default()
        };
        let mut events = server.events().await;
        stalled.push(events.stream_session_events(request).await.unwrap());
    }
    let following = |start| StreamSessionEventsRequest {
        spirit_id: spirit_id.clone(),
        session_id: "s".to_owned(),
        follow: true,
        start,
        ..StreamSessionEventsRequest::default()
    };
    let watching = |start| WatchEventsRequest {
        spirit_id: spirit_id.clone(),
        start,
        ..WatchEventsRequest::default()
    };
    let mut events = server.events().await;
    let mut follower = events
        .stream_session_events(following(None))
        .await
        .unwrap()
        .into_inner();
    let request = watching(Some(Start::AfterSequence(0)));
    let mut watcher = events.watch_events(request).await.unwrap().into_inner();

    let (acknowledge, mut acknowledged) = mpsc::unbounded_channel();
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        callers.spawn(call(
            server.events().await,
            spirit_id.clone(),
            caller,
            acknowledge.clone(),
        ));
    }
    drop(acknowledge);
    let mut keys = Vec::new();
    for _ in 0..BEFORE_THE_END {
        keys.push(acknowledged.recv().await.unwrap());
    }
    let told = Instant::now();
    server.signal("TERM").await;
    let follower = tokio::spawn(async move {
        loop {
            if let Err(end) = follower.message().await {
                return metadata(&end, "cursor");
            }
        }
    });
    let mut seen = Vec::new();
    let sequence = loop {
        use elephantasm_events::grpc::pb::watch_events_response::Item;
        match watcher.message().await {
            Ok(item) => {
                if let Some(Item::Event(event)) = item.unwrap().item {
                    seen.push(event.sequence);
                }
            }
            Err(end) => break metadata(&end, "sequence"),
        }
    };
    let cursor = follower.await.unwrap();
    while let Some(key) = acknowledged.recv().await {
        keys.push(key);
    }
    callers.join_all().await;
    assert_eq!(server.ended().await, (Some(0), String::new()), "{}", server.log());
    let took = told.elapsed();
    assert!(
        took < Duration::from_secs(LIMIT) + LEEWAY,
        "{took:?}\n{}",
        server.log()
    );
    drop((silent, health, stalled));

    let server = Server::start(&place).await;
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "select dedupe_key, sequence from events where spirit_id = $1::text::uuid order by sequence",
    )
    .bind(&spirit_id)
    .fetch_all(&mut place.connect().await)
    .await
    .unwrap();
    let lost: Vec<&String> = keys
        .iter()
        .filter(|key| !rows.iter().any(|(stored, _)| stored == *key))
        .collect();
    assert_eq!(lost, Vec::<&String>::new(), "acknowledged and not stored");
    // Both streams go on where they ended: nothing is missing, nothing comes twice.
    let last = rows.last().unwrap().1;
    let after = sequence.parse().unwrap();
    assert_eq!(seen, (1..=after).collect::<Vec<_>>());
    server
        .events()
        .await
        .create_event(event(&spirit_id))
        .await
        .unwrap();
    let mut events = server.events().await;
    let request = watching(Some(Start::AfterSequence(after)));
    let mut watcher = events.watch_events(request).await.unwrap().into_inner();
    for expected in after + 1..=last + 1 {
        use elephantasm_events::grpc::pb::watch_events_response::Item;
        let item = watcher.message().await.unwrap().unwrap().item;
        assert!(matches!(item, Some(Item::Event(event)) if event.sequence == expected));
    }
    let start = stream_session_events_request::Start::AfterCursor(cursor);
    let mut follower = events
        .stream_session_events(following(Some(start)))
        .await
        .unwrap()
        .into_inner();
    follower.message().await.unwrap().unwrap();
    drop((watcher, follower, events));
    server.stop().await;
}

#[tokio::test]
async fn a_create_that_waits_for_a_lock_does_not_outlast_the_drains_limit() {
    const LIMIT: u64 = 6;
    let place = Place::new();
    let serve = ["--drain-seconds", &LIMIT.to_string()];
    let mut server = Server::run(&place, &mut place.command(&serve)).await;
    let spirit_id = server.spirit("Ada").await;
    let mut connection = place.connect().await;
    let mut lock = connection.begin().await.unwrap();
    sqlx::query("select id from spirits for update")
        .execute(&mut *lock)
        .await
        .unwrap();
    let mut events = server.events().await;
    let stuck = tokio::spawn(async move { events.create_event(event(&spirit_id)).await });
    let mut beside = place.connect().await;
    eventually("the create waits for the lock", async || {
        let (waiting,): (bool,) =
            sqlx::query_as("select count(*) > 0 from pg_stat_activity where wait_event_type = 'Lock'")
                .fetch_one(&mut beside)
                .await
                .unwrap();
        waiting.then_some(())
    })
    .await;
    let told = Instant::now();
    server.signal("TERM").await;
    assert_eq!(server.ended().await.0, Some(0), "{}", server.log());
    let took = told.elapsed();
    assert!(
        took < Duration::from_secs(LIMIT) + LEEWAY,
        "{took:?}\n{}",
        server.log()
    );
    assert_eq!(stuck.await.unwrap().unwrap_err().code(), Code::Unavailable);
}
