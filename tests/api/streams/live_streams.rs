//! Live streams over time: wake-ups within and between instances, heartbeats, shutdown, deadlines and stalled
//! clients.

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
use crate::support::harness::{PATIENCE, Settings, TestServer, connect};
use crate::support::live::{Item, Watcher, after, beginning, follow, following, now, watch, watch_through};

const NEVER: Duration = Duration::from_secs(3_600);

/// Turns notifications between instances off and sets the poll interval.
fn without_notifications(poll_interval: Duration) -> impl Fn(&mut Settings) {
    move |settings| {
        settings.store.live.listen.notify = false;
        settings.store.live.listen.poll_interval = poll_interval;
    }
}

/// Watches a spirit from now on; returns once the watch has caught up.
async fn caught_up_watch(server: &TestServer, spirit_id: &str) -> Watcher {
    let mut watcher = watch(server, now(spirit_id)).await.unwrap();
    watcher.caught_up().await;
    watcher
}

#[tokio::test]
async fn a_create_wakes_streams_of_the_same_process_without_a_poll_or_a_notification() {
    let server = TestServer::start_with(without_notifications(NEVER)).await;
    let spirit_id = server.spirit().await;
    let mut watcher = caught_up_watch(&server, &spirit_id).await;
    for sequence in 1..=20 {
        create(&mut server.events(), event(&spirit_id)).await;
        assert_eq!(watcher.sequences(1).await, [sequence]);
    }
}

#[tokio::test]
async fn without_notifications_streams_of_another_instance_receive_events_by_polling() {
    let first = TestServer::start_with(without_notifications(NEVER)).await;
    let second = TestServer::start_on(
        first.database.clone(),
        without_notifications(Duration::from_millis(20)),
    )
    .await;
    let spirit_id = first.spirit().await;
    let mut watcher = caught_up_watch(&second, &spirit_id).await;
    for sequence in 1..=5 {
        create(&mut first.events(), event(&spirit_id)).await;
        assert_eq!(watcher.sequences(1).await, [sequence]);
    }
}

#[tokio::test]
async fn a_notification_wakes_streams_of_another_instance_before_the_next_poll() {
    /// Far less than five rounds of the fallback poll, which runs every 10 s in addition to LISTEN.
    const LIMIT: Duration = Duration::from_secs(10);
    let rare_polls = |settings: &mut Settings| settings.store.live.listen.poll_interval = NEVER;
    let first = TestServer::start_with(rare_polls).await;
    let second = TestServer::start_on(first.database.clone(), rare_polls).await;
    let spirit_id = first.spirit().await;
    let mut watcher = caught_up_watch(&second, &spirit_id).await;
    create(&mut first.events(), event(&spirit_id)).await;
    watcher.event().await; // the second instance listens from here on
    let start = Instant::now();
    for sequence in 2..=6 {
        create(&mut first.events(), event(&spirit_id)).await;
        assert_eq!(watcher.sequences(1).await, [sequence]);
    }
    assert!(start.elapsed() < LIMIT, "took {:?}", start.elapsed());
}

fn frequent_heartbeats(settings: &mut Settings) {
    settings.store.live.heartbeat = Duration::from_millis(50);
}

/// The request with a filter that no event passes.
fn matching_nothing(request: WatchEventsRequest) -> WatchEventsRequest {
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
async fn heartbeats_of_an_idle_stream_carry_the_position_to_resume_from() {
    let server = TestServer::start_with(frequent_heartbeats).await;
    let spirit_id = server.spirit().await;
    let mut watcher = watch(&server, matching_nothing(now(&spirit_id))).await.unwrap();
    assert_eq!(watcher.caught_up().await, 0);
    let mut follower = follow(&server, following(&spirit_id, "none")).await.unwrap();
    follower.caught_up().await;
    for sequence in 1..=3 {
        create(&mut server.events(), event(&spirit_id)).await;
        while watcher.heartbeat().await < sequence {}
    }
    // The heartbeat's cursor is past the three events, which belong to no session.
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
async fn heartbeats_advance_while_the_filter_hides_every_event_of_a_busy_spirit() {
    let server = TestServer::start_with(|settings| {
        settings.store.live.heartbeat = Duration::from_millis(200);
    })
    .await;
    let spirit_id = server.spirit().await;
    let mut watcher = watch(&server, matching_nothing(now(&spirit_id))).await.unwrap();
    watcher.caught_up().await;
    let (mut events, request) = (server.events(), event(&spirit_id));
    // Creates events without a pause as long as the heartbeat interval.
    let writer = tokio::spawn(async move {
        loop {
            create(&mut events, request.clone()).await;
        }
    });
    let mut sequences = BTreeSet::new();
    while sequences.len() < 5 {
        let sequence = watcher.heartbeat().await;
        assert!(
            Some(&sequence) >= sequences.last(),
            "a heartbeat at {sequence} after {sequences:?}"
        );
        sequences.insert(sequence);
    }
    assert!(!writer.is_finished());
    writer.abort();
}

#[tokio::test]
async fn a_shutdown_ends_live_streams_with_a_position_from_which_no_event_is_missed() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    create(&mut server.events(), event_at(&spirit_id, "s", 9)).await;
    let mut idle_watcher = caught_up_watch(&server, &spirit_id).await;
    let mut watcher = watch(&server, beginning(&spirit_id)).await.unwrap();
    let mut follower = follow(&server, following(&spirit_id, "s")).await.unwrap();
    watcher.event().await;
    follower.event().await;
    watcher.caught_up().await;
    follower.caught_up().await;
    create(&mut server.events(), event_at(&spirit_id, "s", 1)).await;
    watcher.event().await;
    follower.event().await;
    idle_watcher.event().await;
    let database = Arc::clone(&server.database);
    server.shut_down();
    for watcher in [&mut watcher, &mut idle_watcher] {
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
async fn a_live_stream_ends_at_the_callers_deadline() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut request = Request::new(following(&spirit_id, "s"));
    request.set_timeout(Duration::from_secs(1));
    let mut follower = follow(&server, request).await.unwrap();
    follower.caught_up().await;
    refused(follower.error().await, Code::DeadlineExceeded, "DEADLINE");
}

const STALL_LIMIT: Duration = Duration::from_millis(500);

/// Watches a new spirit with 200 events of 32 KiB over a connection with a flow-control window of 64 KiB.
async fn watch_large_events(server: &TestServer) -> Watcher {
    let spirit_id = server.spirit().await;
    for _ in 0..200 {
        let request = CreateEventRequest {
            content: Some("x".repeat(32 * 1024)),
            ..event(&spirit_id)
        };
        create(&mut server.events(), request).await;
    }
    let endpoint = Endpoint::from_shared(format!("http://{}", server.addr)).unwrap();
    let endpoint = endpoint.initial_stream_window_size(64 * 1024);
    watch_through(endpoint.connect().await.unwrap(), beginning(&spirit_id)).await
}

fn short_stall_limit(settings: &mut Settings) {
    settings.store.live.stall_limit = STALL_LIMIT;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_watch_ends_with_the_sequence_to_resume_after() {
    let server = TestServer::start_with(short_stall_limit).await;
    let mut watcher = watch_large_events(&server).await;
    let (_, mut last_sequence) = watcher.event().await;
    tokio::time::sleep(STALL_LIMIT * 3).await; // the client stalls
    let end = loop {
        match watcher.next().await {
            Ok(Some((Item::Event(_), sequence))) => last_sequence = sequence,
            Ok(other) => panic!("expected an event or an error, got {other:?}"),
            Err(end) => break end,
        }
    };
    assert!(last_sequence < 200, "the stream did not stall: {last_sequence}");
    let end = refused::<()>(Err(end), Code::DeadlineExceeded, "DEADLINE");
    assert_eq!(metadata(&end, "sequence"), last_sequence.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_within_the_stall_limit_receives_every_event() {
    let server = TestServer::start_with(short_stall_limit).await;
    let mut watcher = watch_large_events(&server).await;
    for sequence in 1..=30 {
        assert_eq!(watcher.sequences(1).await, [sequence]);
        tokio::time::sleep(STALL_LIMIT / 8).await; // the client is slow
    }
    assert_eq!(watcher.sequences(170).await, (31..=200).collect::<Vec<_>>());
    assert_eq!(watcher.caught_up().await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_idle_watches_hold_no_database_connection_and_all_receive_one_commit() {
    const CONNECTIONS: usize = 5;
    const STREAMS_PER_CONNECTION: usize = 100;
    let server = TestServer::start_with(|settings| settings.store.pool_size = 2).await;
    let spirit_id = server.spirit().await;
    let mut watchers = Vec::new();
    for _ in 0..CONNECTIONS {
        let channel = connect(server.addr).await;
        for _ in 0..STREAMS_PER_CONNECTION {
            let mut watcher = watch_through(channel.clone(), now(&spirit_id)).await;
            watcher.caught_up().await;
            watchers.push(watcher);
        }
    }
    all_idle(&server).await;
    timeout(PATIENCE, create(&mut server.events(), event(&spirit_id)))
        .await
        .expect("the create is answered");
    let received = join_all(watchers.iter_mut().map(|watcher| watcher.sequences(1))).await;
    assert!(received.iter().all(|sequences| sequences == &[1]));
}
