//! Live streams when readers stall, hints get lost, events are deleted, and the database goes away.

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
use crate::support::live::{Item, after, delete_spirit, follow, following, now, watch, watch_through};
use crate::support::model::{sequences, store};
use crate::support::scrape::Scrape;

/// Many more events of this size than both ends buffer.
const LARGE: usize = 32 * 1024;
const MANY: i64 = 300;

fn large(spirit_id: &str, second: i64) -> CreateEventRequest {
    CreateEventRequest {
        content: Some("x".repeat(LARGE)),
        ..event_at(spirit_id, "s", second)
    }
}

async fn store_many(server: &TestServer, spirit_id: &str) {
    for first in (0..MANY).step_by(50) {
        let requests = (first..first + 50).map(|n| large(spirit_id, n));
        store(&mut server.events(), requests.collect()).await;
    }
}

/// What was buffered for a reader is what still comes after everything was deleted.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_deleted_before_it_is_read_is_shown_only_when_asked_for() {
    const BUFFERED_MAX: usize = 3 * 1024 * 1024;
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let channel = connect_for_many_streams(server.addr).await;
    let all = WatchEventsRequest {
        filter: Some(EventFilter {
            include_deleted: true,
            ..EventFilter::default()
        }),
        ..now(&spirit_id)
    };
    let mut all = watch_through(channel.clone(), all).await;
    let mut undeleted = watch_through(channel, now(&spirit_id)).await;
    all.caught_up().await;
    undeleted.caught_up().await;
    store_many(&server, &spirit_id).await;
    sqlx::query("update events set is_deleted = true, deleted_at = now()")
        .execute(&mut server.database.connect().await)
        .await
        .unwrap();
    let last = create(&mut server.events(), event(&spirit_id)).await.sequence;
    delete_spirit(&server, &spirit_id).await;

    let (seen, end) = undeleted.rest().await;
    refused(end, Code::NotFound, "SPIRIT_NOT_FOUND");
    let mut seen = sequences(&seen);
    assert_eq!(seen.pop(), Some(last));
    assert!(seen.len() * LARGE < BUFFERED_MAX, "{} buffered", seen.len());
    let first: Vec<i64> = (1..).take(seen.len()).collect();
    assert_eq!(seen, first);

    let (seen, end) = all.rest().await;
    refused(end, Code::NotFound, "SPIRIT_NOT_FOUND");
    assert_eq!(sequences(&seen), (1..=last).collect::<Vec<_>>());
    let deleted = seen.iter().filter(|event| event.is_deleted).count();
    assert!(
        seen.len() - deleted < BUFFERED_MAX / LARGE,
        "{deleted} marked deleted"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_follower_resumes_where_it_was_ended() {
    let server = TestServer::start_with(|settings| {
        settings.store.live.stall_limit = Duration::from_millis(300);
    })
    .await;
    let spirit_id = server.spirit().await;
    let channel = connect_for_many_streams(server.addr).await;
    let response = EventServiceClient::new(channel)
        .stream_session_events(following(&spirit_id, "s"))
        .await;
    let mut stalled = crate::support::live::Reader(response.unwrap().into_inner());
    stalled.caught_up().await;
    store_many(&server, &spirit_id).await;
    // Nothing of it can be seen from outside until it is read on.
    sleep(Duration::from_secs(1)).await;
    let (mut seen, mut last) = (Vec::new(), String::new());
    let end = loop {
        match stalled.next().await {
            Ok(Some((Item::Event(event), cursor))) => {
                seen.push(event.sequence);
                last = cursor;
            }
            Ok(other) => panic!("neither an event nor an error: {other:?}"),
            Err(end) => break end,
        }
    };
    let end = refused::<()>(Err(end), Code::DeadlineExceeded, "DEADLINE");
    assert_eq!(metadata(&end, "cursor"), last);
    let request = StreamSessionEventsRequest {
        start: Some(Start::AfterCursor(last)),
        ..following(&spirit_id, "s")
    };
    let mut resumed = follow(&server, request).await.unwrap();
    let missing = usize::try_from(MANY).unwrap() - seen.len();
    seen.extend(resumed.sequences(missing).await);
    assert_eq!(seen, (1..=MANY).collect::<Vec<_>>());
    resumed.caught_up().await;
}

/// Sends no hints, hears none, and polls this often.
fn deaf(poll_interval: Duration) -> impl Fn(&mut Settings) {
    move |settings| {
        settings.store.live.listen.notify = false;
        settings.store.live.listen.poll_interval = poll_interval;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_where_every_hint_is() {
    const EVENTS: i64 = 500;
    let here = TestServer::start_with(deaf(Duration::from_secs(3_600))).await;
    let there = TestServer::start_on(here.database.clone(), deaf(Duration::from_millis(20))).await;
    let spirit_id = here.spirit().await;
    let mut watcher = watch(&there, now(&spirit_id)).await.unwrap();
    watcher.caught_up().await;
    let writers = (0..10).map(|_| async {
        let mut events = here.events();
        for _ in 0..EVENTS / 10 {
            create(&mut events, event(&spirit_id)).await;
        }
    });
    let all: Vec<i64> = (1..=EVENTS).collect();
    let (_, seen) = tokio::join!(join_all(writers), watcher.sequences(all.len()));
    assert_eq!(seen, all);
    delete_spirit(&here, &spirit_id).await;
    let (rest, end) = watcher.rest().await;
    refused(end, Code::NotFound, "SPIRIT_NOT_FOUND");
    assert_eq!(sequences(&rest), [0; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_restarts_ends_streams_with_the_place_where_nothing_is_missed() {
    let dir = reachable_dir();
    let options = Options {
        data_dir: dir.path().join("data"),
        bin_dir: std::env::var_os("PG_BIN_DIR").map(Into::into),
        settings: vec![("fsync".to_owned(), "off".to_owned())],
    };
    let postgres = EmbeddedPostgres::start(options.clone()).await.unwrap();
    let database = Database::elsewhere(postgres.connect_options("postgres"));
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
    let lost = |end| refused::<()>(end, Code::Unavailable, "DATABASE_UNAVAILABLE");
    let sequence = metadata(&lost(watcher.error().await), "sequence");
    let cursor = metadata(&lost(follower.error().await), "cursor");
    assert_eq!(sequence, "2");

    let postgres = EmbeddedPostgres::start(options).await.unwrap();
    eventually("the server heals", async || {
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

/// An edit that holds a connection of the server's until the lock is given up.
async fn edit_behind_lock<'c>(
    server: &TestServer,
    connection: &'c mut PgConnection,
    edited: Event,
) -> (Transaction<'c, Postgres>, JoinHandle<()>) {
    let mut lock = connection.begin().await.unwrap();
    sqlx::query("select id from events for update")
        .execute(&mut *lock)
        .await
        .unwrap();
    let mut events = server.events();
    let edit = tokio::spawn(async move {
        let request = SoftDeleteEventRequest {
            event_id: edited.id,
            ..SoftDeleteEventRequest::default()
        };
        events.soft_delete_event(request).await.unwrap();
    });
    (lock, edit)
}

/// After 10 s of silence an instance asks itself by a hint whether it hears.
#[tokio::test]
async fn a_pool_that_is_busy_is_not_taken_for_a_listen_that_is_lost() {
    let server = TestServer::start_with(|settings| {
        settings.store.pool_size = 1;
        settings.store.acquire_timeout = Duration::from_millis(100);
    })
    .await;
    let spirit_id = server.spirit().await;
    let edited = create(&mut server.events(), event(&spirit_id)).await;
    let is_listening = async || Scrape::of(&server).await.count("events_listen_up") == 1;
    eventually("it listens", async || is_listening().await.then_some(())).await;
    let mut connection = server.database.connect().await;
    let (lock, edit) = edit_behind_lock(&server, &mut connection, edited).await;
    let until = Instant::now() + Duration::from_secs(12);
    while Instant::now() < until {
        assert!(is_listening().await);
        sleep(Duration::from_millis(100)).await;
    }
    assert!(!edit.is_finished(), "the only connection is busy");
    lock.rollback().await.unwrap();
    edit.await.unwrap();
}

/// The look at the database has a second between two and three for an answer.
#[tokio::test]
async fn a_pool_that_is_busy_is_not_taken_for_a_database_that_is_away() {
    let server = TestServer::start_with(|settings| {
        settings.store.pool_size = 1;
        settings.store.live.heartbeat = Duration::from_secs(1);
    })
    .await;
    let spirit_id = server.spirit().await;
    let edited = create(&mut server.events(), event(&spirit_id)).await;
    let mut watcher = watch(&server, now(&spirit_id)).await.unwrap();
    watcher.caught_up().await;
    let mut connection = server.database.connect().await;
    let (lock, edit) = edit_behind_lock(&server, &mut connection, edited).await;
    for _ in 0..6 {
        assert_eq!(watcher.heartbeat().await, 1);
    }
    assert!(!edit.is_finished(), "the only connection is busy");
    lock.rollback().await.unwrap();
    edit.await.unwrap();
}
