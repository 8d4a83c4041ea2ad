//! Filters and pages of live streams, compared with a model of the events in memory.

use elephantasm_events::grpc::pb::{
    CreateEventRequest, Event, EventFilter, StreamSessionEventsRequest, WatchEventsRequest,
};
use tonic::Code;

use crate::support::builders::{event_at, refused};
use crate::support::harness::TestServer;
use crate::support::live::{beginning, delete_spirit, follow, following, now, watch};
use crate::support::model::{filters, passes, sample_requests, sample_spirit, store};

/// The events of a session, or of all, that pass the filter, in sequence order.
fn matching<'e>(events: &'e [Event], session: Option<&str>, filter: &EventFilter) -> Vec<&'e Event> {
    let of_session = |event: &&Event| session.is_none() || event.session_id.as_deref() == session;
    let events = events.iter().filter(of_session);
    events.filter(|event| passes(filter, event)).collect()
}

#[tokio::test]
async fn watch_from_the_beginning_sends_the_stored_events_that_match_each_filter() {
    let server = TestServer::start().await;
    let (spirit_id, events) = sample_spirit(&server).await;
    for (name, filter) in filters() {
        let request = WatchEventsRequest {
            filter: Some(filter.clone()),
            ..beginning(&spirit_id)
        };
        let mut watcher = watch(&server, request).await.unwrap();
        for expected in matching(&events, None, &filter) {
            assert_eq!(&watcher.event().await.0, expected, "{name}");
        }
        assert_eq!(watcher.caught_up().await, 60, "{name}");
    }
}

#[tokio::test]
async fn watch_and_follow_send_the_live_events_that_match_each_filter() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut streams = Vec::new();
    for (name, filter) in filters() {
        let request = WatchEventsRequest {
            filter: Some(filter.clone()),
            ..now(&spirit_id)
        };
        let mut watcher = watch(&server, request).await.unwrap();
        assert_eq!(watcher.caught_up().await, 0);
        let request = StreamSessionEventsRequest {
            filter: Some(filter.clone()),
            ..following(&spirit_id, "a")
        };
        let mut follower = follow(&server, request).await.unwrap();
        follower.caught_up().await;
        streams.push((name, filter, watcher, follower));
    }
    let events = store(&mut server.events(), sample_requests(&spirit_id)).await;
    delete_spirit(&server, &spirit_id).await;
    for (name, filter, watcher, follower) in streams {
        for (session, (received, end)) in [(None, watcher.rest().await), (Some("a"), follower.rest().await)] {
            refused(end, Code::NotFound, "SPIRIT_NOT_FOUND");
            let received: Vec<&Event> = received.iter().collect();
            assert_eq!(
                received,
                matching(&events, session, &filter),
                "{name}, {session:?}"
            );
        }
    }
}

#[tokio::test]
async fn watch_catches_up_over_many_pages_in_sequence_order() {
    const EVENTS_PER_BATCH: i64 = 700;
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    for _ in 0..2 {
        let requests = (0..EVENTS_PER_BATCH).map(|n| CreateEventRequest {
            content: Some("x".repeat(if n % 40 == 0 { 100_000 } else { 1 })),
            ..event_at(&spirit_id, "s", -n)
        });
        store(&mut server.events(), requests.collect()).await;
    }
    let mut watcher = watch(&server, beginning(&spirit_id)).await.unwrap();
    let all: Vec<i64> = (1..=2 * EVENTS_PER_BATCH).collect();
    assert_eq!(watcher.sequences(all.len()).await, all);
    assert_eq!(watcher.caught_up().await, 2 * EVENTS_PER_BATCH);
}
