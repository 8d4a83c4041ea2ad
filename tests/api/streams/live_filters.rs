//! Filters and pages of live streams against the events in memory.

use elephantasm_events::grpc::pb::{
    CreateEventRequest, Event, EventFilter, StreamSessionEventsRequest, WatchEventsRequest,
};
use tonic::Code;

use crate::support::builders::{event_at, refused};
use crate::support::harness::TestServer;
use crate::support::live::{beginning, delete_spirit, follow, following, now, watch};
use crate::support::model::{filters, passes, sample_requests, sample_spirit, store};

/// Events that pass, in sequence order.
fn passing<'e>(events: &'e [Event], session: Option<&str>, filter: &EventFilter) -> Vec<&'e Event> {
    let of_session = |event: &&Event| session.is_none() || event.session_id.as_deref() == session;
    let events = events.iter().filter(of_session);
    events.filter(|event| passes(filter, event)).collect()
}

#[tokio::test]
async fn catching_up_sends_what_passes_the_filter() {
    let server = TestServer::start().await;
    let (spirit_id, events) = sample_spirit(&server).await;
    for (name, filter) in filters() {
        let request = WatchEventsRequest {
            filter: Some(filter.clone()),
            ..beginning(&spirit_id)
        };
        let mut watcher = watch(&server, request).await.unwrap();
        for expected in passing(&events, None, &filter) {
            assert_eq!(&watcher.event().await.0, expected, "{name}");
        }
        assert_eq!(watcher.caught_up().await, 60, "{name}");
    }
}

#[tokio::test]
async fn live_events_pass_the_same_filters() {
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
        for (session, (seen, end)) in [(None, watcher.rest().await), (Some("a"), follower.rest().await)] {
            refused(end, Code::NotFound, "SPIRIT_NOT_FOUND");
            let seen: Vec<&Event> = seen.iter().collect();
            assert_eq!(seen, passing(&events, session, &filter), "{name}, {session:?}");
        }
    }
}

#[tokio::test]
async fn a_long_way_is_caught_up_page_by_page_in_order() {
    const EACH: i64 = 700;
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    for _ in 0..2 {
        let requests = (0..EACH).map(|n| CreateEventRequest {
            content: Some("x".repeat(if n % 40 == 0 { 100_000 } else { 1 })),
            ..event_at(&spirit_id, "s", -n)
        });
        store(&mut server.events(), requests.collect()).await;
    }
    let mut watcher = watch(&server, beginning(&spirit_id)).await.unwrap();
    let all: Vec<i64> = (1..=2 * EACH).collect();
    assert_eq!(watcher.sequences(all.len()).await, all);
    assert_eq!(watcher.caught_up().await, 2 * EACH);
}
