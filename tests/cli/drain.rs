//! Graceful shutdown under load: acknowledged events are stored, streams can resume, and the server exits within
//! its drain limit with code 0.

use std::time::{Duration, Instant};

use elephantasm_events::grpc::pb::event_service_client::EventServiceClient;
use elephantasm_events::grpc::pb::watch_events_request::Start;
use elephantasm_events::grpc::pb::watch_events_response::Item;
use elephantasm_events::grpc::pb::{
    CreateEventRequest, StreamSessionEventsRequest, StreamSessionEventsResponse, WatchEventsRequest,
    WatchEventsResponse, stream_session_events_request,
};
use sqlx::Connection as _;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Code, Response, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use crate::harness::{Server, TestDir, event, eventually};

type Watcher = Streaming<WatchEventsResponse>;
type Follower = Streaming<StreamSessionEventsResponse>;

const CALLERS: usize = 8;
/// Creates acknowledged before the shutdown.
const BEFORE_SHUTDOWN: usize = 100;
/// Time beyond the drain limit, for the database's own shutdown on a busy machine.
const LEEWAY: Duration = Duration::from_secs(5);

fn keyed(spirit_id: &str, key: &str) -> CreateEventRequest {
    CreateEventRequest {
        dedupe_key: Some(key.to_owned()),
        ..event(spirit_id)
    }
}

fn following(
    spirit_id: &str,
    start: Option<stream_session_events_request::Start>,
) -> StreamSessionEventsRequest {
    StreamSessionEventsRequest {
        spirit_id: spirit_id.to_owned(),
        session_id: "s".to_owned(),
        follow: true,
        start,
        ..StreamSessionEventsRequest::default()
    }
}

fn watching(spirit_id: &str, start: Start) -> WatchEventsRequest {
    WatchEventsRequest {
        spirit_id: spirit_id.to_owned(),
        start: Some(start),
        ..WatchEventsRequest::default()
    }
}

/// Creates events until a call fails, which must be with an error that clients retry.
async fn create_until_refused(
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
                // The client reports a connection that closed before the call was sent with an error of its own.
                let is_client_error = std::error::Error::source(&status).is_some();
                assert!(
                    is_client_error || status.code() == Code::Unavailable,
                    "{status:?}"
                );
                return;
            }
        }
    }
}

/// Starts concurrent callers of [`create_until_refused`]; the receiver gets the keys of acknowledged events.
async fn start_callers(server: &Server, spirit_id: &str) -> (JoinSet<()>, UnboundedReceiver<String>) {
    let (acknowledge, acknowledged) = mpsc::unbounded_channel();
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let events = server.events().await;
        let (spirit_id, acknowledge) = (spirit_id.to_owned(), acknowledge.clone());
        callers.spawn(create_until_refused(events, spirit_id, caller, acknowledge));
    }
    (callers, acknowledged)
}

/// Opens replays of large events and never reads them.
async fn stalled_replays(server: &Server) -> Vec<Response<Follower>> {
    let spirit_id = server.spirit("Large").await;
    for _ in 0..20 {
        let request = CreateEventRequest {
            content: Some("x".repeat(500_000)),
            ..event(&spirit_id)
        };
        server.events().await.create_event(request).await.unwrap();
    }
    let mut stalled = Vec::new();
    for _ in 0..5 {
        let request = StreamSessionEventsRequest {
            spirit_id: spirit_id.clone(),
            session_id: "s".to_owned(),
            ..StreamSessionEventsRequest::default()
        };
        let mut events = server.events().await;
        stalled.push(events.stream_session_events(request).await.unwrap());
    }
    stalled
}

/// The resume position that a stream's final error carries in its metadata.
fn resume_position(end: &Status, name: &str) -> String {
    assert_eq!(end.code(), Code::Unavailable, "{end:?}");
    let info = end.get_details_error_info().unwrap();
    assert_eq!(info.reason, "SHUTTING_DOWN");
    info.metadata[name].clone()
}

/// Reads a follower to its end and returns the cursor to resume with.
async fn read_follower_to_end(mut follower: Follower) -> String {
    loop {
        if let Err(end) = follower.message().await {
            return resume_position(&end, "cursor");
        }
    }
}

/// Reads a watcher to its end; returns the sequences seen and the sequence to resume after.
async fn read_watcher_to_end(mut watcher: Watcher) -> (Vec<i64>, i64) {
    let mut seen = Vec::new();
    loop {
        match watcher.message().await {
            Ok(item) => {
                if let Some(Item::Event(event)) = item.unwrap().item {
                    seen.push(event.sequence);
                }
            }
            Err(end) => return (seen, resume_position(&end, "sequence").parse().unwrap()),
        }
    }
}

/// Asserts that every acknowledged event is stored, and returns the last sequence of the spirit.
async fn assert_stored(test_dir: &TestDir, spirit_id: &str, acknowledged: &[String]) -> i64 {
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "select dedupe_key, sequence from events where spirit_id = $1::text::uuid order by sequence",
    )
    .bind(spirit_id)
    .fetch_all(&mut test_dir.connect().await)
    .await
    .unwrap();
    let lost: Vec<&String> = acknowledged
        .iter()
        .filter(|key| !rows.iter().any(|(stored, _)| stored == *key))
        .collect();
    assert_eq!(lost, Vec::<&String>::new(), "acknowledged but not stored");
    rows.last().unwrap().1
}

/// Asserts that the watch resumes after its position without gaps or repetitions, and that the follow resumes
/// after its cursor.
async fn assert_streams_resume(server: &Server, spirit_id: &str, (after, last): (i64, i64), cursor: String) {
    let mut events = server.events().await;
    events.create_event(event(spirit_id)).await.unwrap();
    let request = watching(spirit_id, Start::AfterSequence(after));
    let mut watcher = events.watch_events(request).await.unwrap().into_inner();
    for expected in after + 1..=last + 1 {
        let item = watcher.message().await.unwrap().unwrap().item;
        assert!(matches!(item, Some(Item::Event(event)) if event.sequence == expected));
    }
    let start = stream_session_events_request::Start::AfterCursor(cursor);
    let request = following(spirit_id, Some(start));
    let follower = events.stream_session_events(request).await;
    follower.unwrap().into_inner().message().await.unwrap().unwrap();
}

/// Waits until the server has exited with code 0, which it must do within the limit.
async fn assert_exits_within(server: &mut Server, limit: u64, signalled_at: Instant) {
    assert_eq!(
        server.wait_for_exit().await,
        (Some(0), String::new()),
        "{}",
        server.log()
    );
    let elapsed = signalled_at.elapsed();
    assert!(
        elapsed < Duration::from_secs(limit) + LEEWAY,
        "{elapsed:?}\n{}",
        server.log()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_under_load_loses_no_acknowledged_event_and_lets_streams_resume() {
    const LIMIT: u64 = 3;
    let test_dir = TestDir::new();
    let serve = ["--drain-timeout", &format!("{LIMIT}s")];
    let mut server = Server::run(&test_dir, &mut test_dir.command(&serve)).await;
    let spirit_id = server.spirit("Ada").await;

    // Connections that must not delay the exit: silent ones, a health watch, replays that are not read.
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(TcpStream::connect(&server.addr).await.unwrap());
    }
    let mut health = HealthClient::new(server.channel().await);
    let health = health.watch(HealthCheckRequest::default()).await.unwrap();
    let stalled = stalled_replays(&server).await;

    let mut events = server.events().await;
    let follower = events.stream_session_events(following(&spirit_id, None)).await;
    let follower = follower.unwrap().into_inner();
    let watcher = events
        .watch_events(watching(&spirit_id, Start::AfterSequence(0)))
        .await;
    let watcher = watcher.unwrap().into_inner();
    let (callers, mut acknowledged) = start_callers(&server, &spirit_id).await;
    let mut keys = Vec::new();
    for _ in 0..BEFORE_SHUTDOWN {
        keys.push(acknowledged.recv().await.unwrap());
    }

    let signalled_at = Instant::now();
    server.signal("TERM").await;
    let follower = tokio::spawn(read_follower_to_end(follower));
    let (seen, after) = read_watcher_to_end(watcher).await;
    let cursor = follower.await.unwrap();
    while let Some(key) = acknowledged.recv().await {
        keys.push(key);
    }
    callers.join_all().await;
    assert_exits_within(&mut server, LIMIT, signalled_at).await;
    drop((silent, health, stalled));

    let server = Server::start(&test_dir).await;
    let last = assert_stored(&test_dir, &spirit_id, &keys).await;
    assert_eq!(seen, (1..=after).collect::<Vec<_>>());
    assert_streams_resume(&server, &spirit_id, (after, last), cursor).await;
    server.stop().await;
}

#[tokio::test]
async fn a_create_that_waits_for_a_lock_does_not_delay_the_exit_beyond_the_drain_limit() {
    const LIMIT: u64 = 6;
    let test_dir = TestDir::new();
    let serve = ["--drain-timeout", &format!("{LIMIT}s")];
    let mut server = Server::run(&test_dir, &mut test_dir.command(&serve)).await;
    let spirit_id = server.spirit("Ada").await;
    let mut connection = test_dir.connect().await;
    let mut lock = connection.begin().await.unwrap();
    sqlx::query("select id from spirits for update")
        .execute(&mut *lock)
        .await
        .unwrap();
    let mut events = server.events().await;
    let waiting_create = tokio::spawn(async move { events.create_event(event(&spirit_id)).await });
    let mut observer = test_dir.connect().await;
    eventually("the create waits for the lock", async || {
        let (waiting,): (bool,) =
            sqlx::query_as("select count(*) > 0 from pg_stat_activity where wait_event_type = 'Lock'")
                .fetch_one(&mut observer)
                .await
                .unwrap();
        waiting.then_some(())
    })
    .await;
    let signalled_at = Instant::now();
    server.signal("TERM").await;
    assert_exits_within(&mut server, LIMIT, signalled_at).await;
    let refused = waiting_create.await.unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
}
