//! Live streams as they last: who wakes them, what they say when idle, and how they end.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use elephantasm_events::grpc::pb::{
    CreateEventRequest, EventFilter, StreamSessionEventsRequest, WatchEventsRequest,
    stream_session_events_request::Start,
};
use futures_util::future::join_all;
use tokio::time::{Instant, timeout};
use tonic::transport::Endpoint;
use tonic::{Code, Request};

use crate::streams::stalled_streams::all_idle;
use crate::support::builders::{create, event, event_at, metadata, refused};
use crate::support::harness::{Database, PATIENCE, Settings, TestServer, connect};
use crate::support::live::{Item, Watcher, after, beginning, follow, following, now, watch, watch_through};

const NEVER: Duration = Duration::from_secs(3_600);

/// Sends no hints, and listens for none.
fn polling(interval: Duration) -> impl Fn(&mut Settings) {
    move |settings| {
        settings.store.live.listen.notify = false;
        settings.store.live.listen.poll_interval = interval;
    }
}

/// A watch of a new spirit that has caught up.
async fn idle(server: &TestServer, spirit_id: &str) -> Watcher {
    let mut watcher = watch(server, now(spirit_id)).await.unwrap();
    watcher.caught_up().await;
    watcher
}

#[tokio::test]
async fn a_create_wakes_the_streams_of_its_own_process_without_a_poll_or_a_hint() {
    let server = TestServer::start_with(polling(NEVER)).await;
    let spirit_id = server.spirit().await;
    let mut watcher = idle(&server, &spirit_id).await;
    for sequence in 1..=20 {
        create(&mut server.events(), event(&spirit_id)).await;
        assert_eq!(watcher.sequences(1).await, [sequence]);
    }
}

#[tokio::test]
async fn without_hints_another_instance_polls() {
    let here = TestServer::start_with(polling(NEVER)).await;
    let there = TestServer::start_on(here.database.clone(), polling(Duration::from_millis(20))).await;
    let spirit_id = here.spirit().await;
    let mut watcher = idle(&there, &spirit_id).await;
    for sequence in 1..=5 {
        create(&mut here.events(), event(&spirit_id)).await;
        assert_eq!(watcher.sequences(1).await, [sequence]);
    }
}

#[tokio::test]
async fn with_hints_another_instance_does_not_wait_for_a_poll() {
    /// Far less than as many rounds of the poll that is the net under lost hints.
    const LIMIT: Duration = Duration::from_secs(10);
    let rarely = |settings: &mut Settings| settings.store.live.listen.poll_interval = NEVER;
    let here = TestServer::start_with(rarely).await;
    let there = TestServer::start_on(here.database.clone(), rarely).await;
    let spirit_id = here.spirit().await;
    let mut watcher = idle(&there, &spirit_id).await;
    create(&mut here.events(), event(&spirit_id)).await;
    watcher.event().await; // from now on it listens
    let start = Instant::now();
    for sequence in 2..=6 {
        create(&mut here.events(), event(&spirit_id)).await;
        assert_eq!(watcher.sequences(1).await, [sequence]);
    }
    assert!(start.elapsed() < LIMIT, "took {:?}", start.elapsed());
}

fn often(settings: &mut Settings) {
    settings.store.live.heartbeat = Duration::from_millis(50);
}

fn hiding_all(request: WatchEventsRequest) -> WatchEventsRequest {
    let filter = EventFilter {
        event_types: vec!["never".to_owned()],
        ..EventFilter::default()
    };
    WatchEventsRequest {
        filter: Some(filter),
        ..request
    }
}

#[tokio::test]
async fn an_idle_stream_says_where_it_is() {
    let server = TestServer::start_with(often).await;
    let spirit_id = server.spirit().await;
    let mut watcher = watch(&server, hiding_all(now(&spirit_id))).await.unwrap();
    assert_eq!(watcher.caught_up().await, 0);
    let mut follower = follow(&server, following(&spirit_id, "none")).await.unwrap();
    follower.caught_up().await;
    for sequence in 1..=3 {
        create(&mut server.events(), event(&spirit_id)).await;
        while watcher.heartbeat().await < sequence {}
    }
    // The cursor of a heartbeat is behind what the session's stream has looked at.
    let cursor = follower.heartbeat().await;
    create(&mut server.events(), event_at(&spirit_id, "none", 1)).await;
    let resumed = StreamSessionEventsRequest {
        start: Some(Start::AfterCursor(cursor)),
        ..following(&spirit_id, "none")
    };
    let mut follower = follow(&server, resumed).await.unwrap();
    assert_eq!(follower.sequences(1).await, [4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_filter_hides_a_busy_spirit_says_where_it_is() {
    let server = TestServer::start_with(|settings| {
        settings.store.live.heartbeat = Duration::from_millis(200);
    })
    .await;
    let spirit_id = server.spirit().await;
    let mut watcher = watch(&server, hiding_all(now(&spirit_id))).await.unwrap();
    watcher.caught_up().await;
    let (mut events, request) = (server.events(), event(&spirit_id));
    // Never as long without an event as a heartbeat waits.
    let writer = tokio::spawn(async move {
        loop {
            create(&mut events, request.clone()).await;
        }
    });
    let mut places = BTreeSet::new();
    while places.len() < 5 {
        let place = watcher.heartbeat().await;
        assert!(Some(&place) >= places.last(), "{place} after {places:?}");
        places.insert(place);
    }
    assert!(!writer.is_finished());
    writer.abort();
}

#[tokio::test]
async fn a_shutdown_says_where_to_resume_and_nothing_is_missed() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    create(&mut server.events(), event_at(&spirit_id, "s", 9)).await;
    let mut fresh = idle(&server, &spirit_id).await;
    let mut watcher = watch(&server, beginning(&spirit_id)).await.unwrap();
    let mut follower = follow(&server, following(&spirit_id, "s")).await.unwrap();
    watcher.event().await;
    follower.event().await;
    watcher.caught_up().await;
    follower.caught_up().await;
    create(&mut server.events(), event_at(&spirit_id, "s", 1)).await;
    watcher.event().await;
    follower.event().await;
    fresh.event().await;
    let database = Arc::clone(&server.database);
    server.shut_down();
    for watcher in [&mut watcher, &mut fresh] {
        let end = refused(watcher.error().await, Code::Unavailable, "SHUTTING_DOWN");
        assert_eq!(metadata(&end, "sequence"), "2");
    }
    let end = refused(follower.error().await, Code::Unavailable, "SHUTTING_DOWN");
    server.stop().await.unwrap();

    let server = TestServer::start_on(database, |_| {}).await;
    create(&mut server.events(), event_at(&spirit_id, "s", 2)).await;
    let mut watcher = watch(&server, after(&spirit_id, 2)).await.unwrap();
    assert_eq!(watcher.sequences(1).await, [3]);
    let request = StreamSessionEventsRequest {
        start: Some(Start::AfterCursor(metadata(&end, "cursor"))),
        ..following(&spirit_id, "s")
    };
    let mut follower = follow(&server, request).await.unwrap();
    assert_eq!(follower.sequences(1).await, [3]);
}

#[tokio::test]
async fn the_callers_deadline_ends_a_stream() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut request = Request::new(following(&spirit_id, "s"));
    request.set_timeout(Duration::from_secs(1));
    let mut follower = follow(&server, request).await.unwrap();
    follower.caught_up().await;
    refused(follower.error().await, Code::DeadlineExceeded, "DEADLINE");
}

const STALL_LIMIT: Duration = Duration::from_millis(500);

/// A watch of 200 large events, through a connection that takes in few of them unread.
async fn large(server: &TestServer) -> Watcher {
    let spirit_id = server.spirit().await;
    for _ in 0..200 {
        let request = CreateEventRequest {
            content: Some("x".repeat(32 * 1024)),
            ..event(&spirit_id)
        };
        create(&mut server.events(), request).await;
    }
    let endpoint = Endpoint::from_shared(format!("http://{}", server.addr)).unwrap();
    let narrow = endpoint.initial_stream_window_size(64 * 1024);
    watch_through(narrow.connect().await.unwrap(), beginning(&spirit_id)).await
}

fn stalling(settings: &mut Settings) {
    settings.store.live.stall_limit = STALL_LIMIT;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_reader_is_ended_with_the_place_to_resume() {
    let server = TestServer::start_with(stalling).await;
    let mut watcher = large(&server).await;
    let (_, mut place) = watcher.event().await;
    tokio::time::sleep(STALL_LIMIT * 3).await; // what a stalled reader does
    let end = loop {
        match watcher.next().await {
            Ok(Some((Item::Event(_), at))) => place = at,
            Ok(other) => panic!("neither an event nor an error: {other:?}"),
            Err(end) => break end,
        }
    };
    assert!(place < 200, "more than it could take in: {place}");
    let end = refused::<()>(Err(end), Code::DeadlineExceeded, "DEADLINE");
    assert_eq!(metadata(&end, "sequence"), place.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_goes_on() {
    let server = TestServer::start_with(stalling).await;
    let mut watcher = large(&server).await;
    for sequence in 1..=30 {
        assert_eq!(watcher.sequences(1).await, [sequence]);
        tokio::time::sleep(STALL_LIMIT / 8).await; // what a slow reader does
    }
    assert_eq!(watcher.sequences(170).await, (31..=200).collect::<Vec<_>>());
    assert_eq!(watcher.caught_up().await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_idle_streams_hold_no_database_connection_and_one_commit_reaches_them_all() {
    const CONNECTIONS: usize = 5;
    const STREAMS_EACH: usize = 100;
    let server = TestServer::start_on(Arc::new(Database::create().await), |settings| {
        settings.store.pool_size = 2;
        settings.store.acquire_timeout = Duration::from_secs(5);
    })
    .await;
    let spirit_id = server.spirit().await;
    let mut watchers = Vec::new();
    for _ in 0..CONNECTIONS {
        let channel = connect(server.addr).await;
        for _ in 0..STREAMS_EACH {
            let mut watcher = watch_through(channel.clone(), now(&spirit_id)).await;
            watcher.caught_up().await;
            watchers.push(watcher);
        }
    }
    all_idle(&server).await;
    timeout(PATIENCE, create(&mut server.events(), event(&spirit_id)))
        .await
        .expect("a create goes through");
    let seen = join_all(watchers.iter_mut().map(|watcher| watcher.sequences(1))).await;
    assert!(seen.iter().all(|sequences| sequences == &[1]));
}
