//! Live streams under faults: stalled clients, lost notifications, deleted events, a busy pool and a database
//! restart.

use std::sync::Arc;
use std::time::Duration;

use elephantasm_events::embedded_postgres::{EmbeddedPostgres, Options};
use elephantasm_events::grpc::pb::event_service_client::EventServiceClient;
use elephantasm_events::grpc::pb::stream_session_events_request::Start;
use elephantasm_events::grpc::pb::{
    CreateEventRequest, Event, EventFilter, SoftDeleteEventRequest, StreamSessionEventsRequest,
    WatchEventsRequest,
};
use futures_util::future::join_all;
use sqlx::{Connection as _, PgConnection, Postgres, Transaction};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tonic::Code;

use crate::streams::stalled_streams::connect_for_many_streams;
use crate::support::builders::{create, event, event_at, metadata, refused};
use crate::support::harness::{Database, Settings, TestServer, eventually, reachable_dir};
use crate::support::live::{
    Item, Reader, after, delete_spirit, follow, following, now, watch, watch_through,
};
use crate::support::model::{sequences, store};
use crate::support::scrape::Scrape;

/// Content of a large event; [`MANY`] of them exceed the buffers of both ends.
const LARGE_BYTES: usize = 32 * 1024;
const MANY: i64 = 300;

fn large_event(spirit_id: &str, second: i64) -> CreateEventRequest {
    CreateEventRequest {
        content: Some("x".repeat(LARGE_BYTES)),
        ..event_at(spirit_id, "s", second)
    }
}

async fn store_many(server: &TestServer, spirit_id: &str) {
    for first in (0..MANY).step_by(50) {
        let requests = (first..first + 50).map(|n| large_event(spirit_id, n));
        store(&mut server.events(), requests.collect()).await;
    }
}

/// After all events were deleted, only events that were already buffered for the client arrive as undeleted.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_sends_events_deleted_before_they_are_read_only_with_include_deleted() {
    const BUFFERED_MAX: usize = 3 * 1024 * 1024;
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let channel = connect_for_many_streams(server.addr).await;
    let with_deleted = WatchEventsRequest {
        filter: Some(EventFilter {
            include_deleted: true,
            ..EventFilter::default()
        }),
        ..now(&spirit_id)
    };
    let mut with_deleted = watch_through(channel.clone(), with_deleted).await;
    let mut undeleted = watch_through(channel, now(&spirit_id)).await;
    with_deleted.caught_up().await;
    undeleted.caught_up().await;
    store_many(&server, &spirit_id).await;
    sqlx::query("update events set is_deleted = true, deleted_at = now()")
        .execute(&mut server.database.connect().await)
        .await
        .unwrap();
    let last = create(&mut server.events(), event(&spirit_id)).await.sequence;
    delete_spirit(&server, &spirit_id).await;

    let (received, end) = undeleted.rest().await;
    refused(end, Code::NotFound, "SPIRIT_NOT_FOUND");
    let mut buffered = sequences(&received);
    assert_eq!(buffered.pop(), Some(last));
    assert!(
        buffered.len() * LARGE_BYTES < BUFFERED_MAX,
        "{} events were buffered",
        buffered.len()
    );
    let first: Vec<i64> = (1..).take(buffered.len()).collect();
    assert_eq!(buffered, first);

    let (received, end) = with_deleted.rest().await;
    refused(end, Code::NotFound, "SPIRIT_NOT_FOUND");
    assert_eq!(sequences(&received), (1..=last).collect::<Vec<_>>());
    let deleted = received.iter().filter(|event| event.is_deleted).count();
    assert!(
        received.len() - deleted < BUFFERED_MAX / LARGE_BYTES,
        "only {deleted} of {} events are marked as deleted",
        received.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_follow_ends_with_the_cursor_to_resume_from() {
    let server = TestServer::start_with(|settings| {
        settings.store.live.stall_limit = Duration::from_millis(300);
    })
    .await;
    let spirit_id = server.spirit().await;
    let channel = connect_for_many_streams(server.addr).await;
    let response = EventServiceClient::new(channel)
        .stream_session_events(following(&spirit_id, "s"))
        .await;
    let mut stalled = Reader(response.unwrap().into_inner());
    stalled.caught_up().await;
    store_many(&server, &spirit_id).await;
    // The stall cannot be observed from outside until the stream is read again.
    sleep(Duration::from_secs(1)).await;
    let (mut received, mut last_cursor) = (Vec::new(), String::new());
    let end = loop {
        match stalled.next().await {
            Ok(Some((Item::Event(event), cursor))) => {
                received.push(event.sequence);
                last_cursor = cursor;
            }
            Ok(other) => panic!("expected an event or an error, got {other:?}"),
            Err(end) => break end,
        }
    };
    let end = refused::<()>(Err(end), Code::DeadlineExceeded, "DEADLINE");
    assert_eq!(metadata(&end, "cursor"), last_cursor);
    let request = StreamSessionEventsRequest {
        start: Some(Start::AfterCursor(last_cursor)),
        ..following(&spirit_id, "s")
    };
    let mut resumed = follow(&server, request).await.unwrap();
    let missing = usize::try_from(MANY).unwrap() - received.len();
    received.extend(resumed.sequences(missing).await);
    assert_eq!(received, (1..=MANY).collect::<Vec<_>>());
    resumed.caught_up().await;
}

/// Turns notifications between instances off and sets the poll interval.
fn without_notifications(poll_interval: Duration) -> impl Fn(&mut Settings) {
    move |settings| {
        settings.store.live.listen.notify = false;
        settings.store.live.listen.poll_interval = poll_interval;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_misses_no_event_when_every_notification_is_lost() {
    const EVENTS: i64 = 500;
    let first = TestServer::start_with(without_notifications(Duration::from_secs(3_600))).await;
    let second = TestServer::start_on(
        first.database.clone(),
        without_notifications(Duration::from_millis(20)),
    )
    .await;
    let spirit_id = first.spirit().await;
    let mut watcher = watch(&second, now(&spirit_id)).await.unwrap();
    watcher.caught_up().await;
    let writers = (0..10).map(|_| async {
        let mut events = first.events();
        for _ in 0..EVENTS / 10 {
            create(&mut events, event(&spirit_id)).await;
        }
    });
    let all: Vec<i64> = (1..=EVENTS).collect();
    let (_, received) = tokio::join!(join_all(writers), watcher.sequences(all.len()));
    assert_eq!(received, all);
    delete_spirit(&first, &spirit_id).await;
    let (rest, end) = watcher.rest().await;
    refused(end, Code::NotFound, "SPIRIT_NOT_FOUND");
    assert_eq!(sequences(&rest), [0; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_restart_ends_live_streams_with_a_position_from_which_no_event_is_missed() {
    let dir = reachable_dir();
    let options = Options {
        data_dir: dir.path().join("data"),
        bin_dir: std::env::var_os("PG_BIN_DIR").map(Into::into),
        settings: vec![("fsync".to_owned(), "off".to_owned())],
    };
    let postgres = EmbeddedPostgres::start(options.clone()).await.unwrap();
    let database = Database::external(postgres.connect_options("postgres"));
    let server = TestServer::start_on(Arc::new(database), |_| {}).await;
    let spirit_id = server.spirit().await;
    create(&mut server.events(), event_at(&spirit_id, "s", 9)).await;
    let mut watcher = watch(&server, now(&spirit_id)).await.unwrap();
    let mut follower = follow(&server, following(&spirit_id, "s")).await.unwrap();
    watcher.caught_up().await;
    follower.event().await;
    follower.caught_up().await;
    create(&mut server.events(), event_at(&spirit_id, "s", 5)).await;
    watcher.event().await;
    follower.event().await;

    postgres.stop().await.unwrap();
    let unavailable = |end| refused::<()>(end, Code::Unavailable, "DATABASE_UNAVAILABLE");
    let sequence = metadata(&unavailable(watcher.error().await), "sequence");
    let cursor = metadata(&unavailable(follower.error().await), "cursor");
    assert_eq!(sequence, "2");

    let postgres = EmbeddedPostgres::start(options).await.unwrap();
    eventually("the server accepts creates again", async || {
        let request = event_at(&spirit_id, "s", 1);
        server.events().create_event(request).await.ok()
    })
    .await;
    let sequence = sequence.parse().unwrap();
    let mut watcher = watch(&server, after(&spirit_id, sequence)).await.unwrap();
    assert_eq!(watcher.sequences(1).await, [3]);
    watcher.caught_up().await;
    let request = StreamSessionEventsRequest {
        start: Some(Start::AfterCursor(cursor)),
        ..following(&spirit_id, "s")
    };
    let mut follower = follow(&server, request).await.unwrap();
    assert_eq!(follower.sequences(1).await, [3]);
    follower.caught_up().await;
    create(&mut server.events(), event_at(&spirit_id, "s", 0)).await;
    assert_eq!(watcher.sequences(1).await, [4]);
    assert_eq!(follower.sequences(1).await, [4]);
    server.stop().await.unwrap();
    postgres.stop().await.unwrap();
}

/// Starts a delete that occupies a connection of the server until the returned lock is released.
async fn block_delete<'c>(
    server: &TestServer,
    connection: &'c mut PgConnection,
    event: Event,
) -> (Transaction<'c, Postgres>, JoinHandle<()>) {
    let mut lock = connection.begin().await.unwrap();
    sqlx::query("select id from events for update")
        .execute(&mut *lock)
        .await
        .unwrap();
    let mut events = server.events();
    let delete = tokio::spawn(async move {
        let request = SoftDeleteEventRequest {
            event_id: event.id,
            ..SoftDeleteEventRequest::default()
        };
        events.soft_delete_event(request).await.unwrap();
    });
    (lock, delete)
}

/// After 10 s without a notification an instance sends itself one to check its LISTEN connection.
#[tokio::test]
async fn a_busy_pool_does_not_count_as_a_lost_listen_connection() {
    let server = TestServer::start_with(|settings| {
        settings.store.pool_size = 1;
        settings.store.acquire_timeout = Duration::from_secs(2);
    })
    .await;
    let spirit_id = server.spirit().await;
    let stored = create(&mut server.events(), event(&spirit_id)).await;
    let is_listening = async || Scrape::of(&server).await.count("events_listen_up") == 1;
    eventually("the server listens", async || is_listening().await.then_some(())).await;
    let mut connection = server.database.connect().await;
    let (lock, delete) = block_delete(&server, &mut connection, stored).await;
    let until = Instant::now() + Duration::from_secs(14);
    while Instant::now() < until {
        assert!(is_listening().await);
        sleep(Duration::from_millis(100)).await;
    }
    assert!(!delete.is_finished(), "the only connection is not busy");
    lock.rollback().await.unwrap();
    delete.await.unwrap();
}

/// The health probe runs a second after the previous one and has a timeout of three seconds; six heartbeats
/// outlast both.
#[tokio::test]
async fn a_busy_pool_does_not_end_live_streams_as_if_the_database_were_unavailable() {
    let server = TestServer::start_with(|settings| {
        settings.store.pool_size = 1;
        settings.store.live.heartbeat = Duration::from_secs(1);
    })
    .await;
    let spirit_id = server.spirit().await;
    let stored = create(&mut server.events(), event(&spirit_id)).await;
    let mut watcher = watch(&server, now(&spirit_id)).await.unwrap();
    watcher.caught_up().await;
    let mut connection = server.database.connect().await;
    let (lock, delete) = block_delete(&server, &mut connection, stored).await;
    for _ in 0..6 {
        assert_eq!(watcher.heartbeat().await, 1);
    }
    assert!(!delete.is_finished(), "the only connection is not busy");
    lock.rollback().await.unwrap();
    delete.await.unwrap();
}
