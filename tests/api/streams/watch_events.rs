//! `WatchEvents`: where a watch starts, what it shows and in which order.

use elephantasm_events::grpc::pb::{
    EventFilter, EventView, RestoreSpiritRequest, SoftDeleteEventRequest, SoftDeleteSpiritRequest,
    WatchEventsRequest,
};
use tonic::Code;

use crate::support::builders::{bad_fields, create, event, event_at, refused};
use crate::support::harness::TestServer;
use crate::support::live::{after, beginning, now, watch};

const NOBODY: &str = "00000000-0000-7000-8000-000000000000";

#[tokio::test]
async fn from_the_beginning_comes_everything_in_sequence_order_then_what_is_committed() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut events = server.events();
    for seconds in [300, 100, 200] {
        create(&mut events, event_at(&spirit_id, "s", seconds)).await;
    }
    let mut watcher = watch(&server, beginning(&spirit_id)).await.unwrap();
    assert_eq!(watcher.sequences(3).await, [1, 2, 3]);
    assert_eq!(watcher.caught_up().await, 3);
    for (seconds, sequence) in [(400, 4), (50, 5), (60, 6)] {
        let created = create(&mut events, event_at(&spirit_id, "t", seconds)).await;
        let (seen, place) = watcher.event().await; // no second caught_up
        assert_eq!((&seen, place), (&created, sequence));
    }
}

#[tokio::test]
async fn an_empty_spirit_is_caught_up_at_zero() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut watcher = watch(&server, beginning(&spirit_id)).await.unwrap();
    assert_eq!(watcher.caught_up().await, 0);
    create(&mut server.events(), event(&spirit_id)).await;
    assert_eq!(watcher.sequences(1).await, [1]);
}

#[tokio::test]
async fn from_now_misses_neither_the_very_next_create_nor_shows_one_before() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    for round in 0..50 {
        create(&mut server.events(), event(&spirit_id)).await;
        let mut watcher = watch(&server, now(&spirit_id)).await.unwrap();
        let next = create(&mut server.events(), event(&spirit_id)).await;
        let first = loop {
            // Whether caught_up comes before the event or after it is a matter of time.
            if let Some((crate::support::live::Item::Event(event), _)) = watcher.next().await.unwrap() {
                break *event;
            }
        };
        assert_eq!(first, next, "round {round}");
    }
}

#[tokio::test]
async fn a_watch_starts_behind_its_sequence() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    for _ in 0..3 {
        create(&mut server.events(), event(&spirit_id)).await;
    }
    for start in 0..=3 {
        let mut watcher = watch(&server, after(&spirit_id, start)).await.unwrap();
        let expected: Vec<i64> = (start + 1..=3).collect();
        assert_eq!(watcher.sequences(expected.len()).await, expected);
        assert_eq!(watcher.caught_up().await, 3);
    }
}

#[tokio::test]
async fn starts_that_are_nowhere_are_refused() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    create(&mut server.events(), event(&spirit_id)).await;
    let bad = [
        ("after the last", after(&spirit_id, 2), "after_sequence"),
        ("far after", after(&spirit_id, i64::MAX), "after_sequence"),
        ("negative", after(&spirit_id, -1), "after_sequence"),
        ("no UUID", now("spirit"), "spirit_id"),
        (
            "an unknown view",
            WatchEventsRequest {
                view: 9,
                ..now(&spirit_id)
            },
            "view",
        ),
    ];
    for (what, request, field) in bad {
        assert_eq!(bad_fields(watch(&server, request).await), [field], "{what}");
    }
    for request in [now(NOBODY), beginning(NOBODY), after(NOBODY, 0)] {
        refused(watch(&server, request).await, Code::NotFound, "SPIRIT_NOT_FOUND");
    }
}

#[tokio::test]
async fn filter_and_view_hold_for_what_was_and_for_what_comes() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut events = server.events();
    let mut scored = event(&spirit_id);
    scored.importance_score = Some(0.9);
    create(&mut events, event(&spirit_id)).await;
    create(&mut events, scored.clone()).await;
    let request = WatchEventsRequest {
        filter: Some(EventFilter {
            min_importance: Some(0.5),
            ..EventFilter::default()
        }),
        view: EventView::Basic.into(),
        ..beginning(&spirit_id)
    };
    let mut watcher = watch(&server, request).await.unwrap();
    let (old, _) = watcher.event().await;
    assert_eq!((old.sequence, old.content, old.meta), (2, None, None));
    watcher.caught_up().await;
    create(&mut events, event(&spirit_id)).await;
    create(&mut events, scored).await;
    let (new, place) = watcher.event().await;
    assert_eq!((new.sequence, new.content, new.meta), (4, None, None));
    assert_eq!(place, 4);
}

#[tokio::test]
async fn events_come_in_their_present_state_and_deleted_ones_only_when_asked_for() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let first = create(&mut server.events(), event(&spirit_id)).await;
    create(&mut server.events(), event(&spirit_id)).await;
    let delete = SoftDeleteEventRequest {
        event_id: first.id,
        ..SoftDeleteEventRequest::default()
    };
    server.events().soft_delete_event(delete).await.unwrap();
    let mut watcher = watch(&server, beginning(&spirit_id)).await.unwrap();
    assert_eq!(watcher.sequences(1).await, [2]);
    let request = WatchEventsRequest {
        filter: Some(EventFilter {
            include_deleted: true,
            ..EventFilter::default()
        }),
        ..beginning(&spirit_id)
    };
    let mut watcher = watch(&server, request).await.unwrap();
    let (deleted, _) = watcher.event().await;
    assert_eq!((deleted.sequence, deleted.is_deleted), (1, true));
    assert_eq!(watcher.sequences(1).await, [2]);
}

#[tokio::test]
async fn a_spirit_that_is_deleted_ends_its_watches_after_its_last_event() {
    let here = TestServer::start().await;
    let there = TestServer::start_on(here.database.clone(), |_| {}).await;
    let spirit_id = here.spirit().await;
    let mut watchers = Vec::new();
    for server in [&here, &there] {
        let mut watcher = watch(server, now(&spirit_id)).await.unwrap();
        watcher.caught_up().await;
        watchers.push(watcher);
    }
    create(&mut here.events(), event(&spirit_id)).await;
    let delete = SoftDeleteSpiritRequest {
        spirit_id: spirit_id.clone(),
        ..SoftDeleteSpiritRequest::default()
    };
    there.spirits().soft_delete_spirit(delete).await.unwrap();
    watchers.push(watch(&here, beginning(&spirit_id)).await.unwrap()); // begun when it was deleted
    for mut watcher in watchers {
        assert_eq!(watcher.sequences(1).await, [1]);
        refused(watcher.error().await, Code::NotFound, "SPIRIT_NOT_FOUND");
    }

    let restore = RestoreSpiritRequest {
        spirit_id: spirit_id.clone(),
        ..RestoreSpiritRequest::default()
    };
    here.spirits().restore_spirit(restore).await.unwrap();
    let mut watcher = watch(&there, after(&spirit_id, 1)).await.unwrap();
    assert_eq!(watcher.caught_up().await, 1);
    create(&mut here.events(), event(&spirit_id)).await;
    assert_eq!(watcher.sequences(1).await, [2]);
}
