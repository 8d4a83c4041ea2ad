//! `WatchEvents`: start, order, filter and view of a watch, and its end when the spirit is deleted.

use elephantasm_events::grpc::pb::{
    EventFilter, EventView, RestoreSpiritRequest, SoftDeleteEventRequest, SoftDeleteSpiritRequest,
    WatchEventsRequest,
};
use tonic::Code;

use crate::support::builders::{bad_fields, create, event, event_at, refused};
use crate::support::harness::TestServer;
use crate::support::live::{Item, after, beginning, now, watch};

const UNKNOWN_SPIRIT: &str = "00000000-0000-7000-8000-000000000000";

#[tokio::test]
async fn watch_from_the_beginning_sends_stored_then_new_events_in_sequence_order() {
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
        let (received, position) = watcher.event().await; // no second caught_up
        assert_eq!((&received, position), (&created, sequence));
    }
}

#[tokio::test]
async fn watch_of_a_session_sends_only_its_events() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut events = server.events();
    for session in ["s", "t", "s"] {
        create(&mut events, event_at(&spirit_id, session, 1)).await;
    }
    create(&mut events, event(&spirit_id)).await;
    let request = WatchEventsRequest {
        session_id: Some("s".to_owned()),
        ..beginning(&spirit_id)
    };
    let mut watcher = watch(&server, request).await.unwrap();
    assert_eq!(watcher.sequences(2).await, [1, 3]);
    assert_eq!(watcher.caught_up().await, 4);
    create(&mut events, event_at(&spirit_id, "t", 1)).await;
    create(&mut events, event_at(&spirit_id, "s", 1)).await;
    assert_eq!(watcher.sequences(1).await, [6]);
}

#[tokio::test]
async fn watch_of_an_empty_spirit_is_caught_up_at_sequence_zero() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut watcher = watch(&server, beginning(&spirit_id)).await.unwrap();
    assert_eq!(watcher.caught_up().await, 0);
    create(&mut server.events(), event(&spirit_id)).await;
    assert_eq!(watcher.sequences(1).await, [1]);
}

#[tokio::test]
async fn watch_from_now_starts_with_the_next_event_created() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    for round in 0..50 {
        create(&mut server.events(), event(&spirit_id)).await;
        let mut watcher = watch(&server, now(&spirit_id)).await.unwrap();
        let next = create(&mut server.events(), event(&spirit_id)).await;
        let first = loop {
            // caught_up may arrive before or after the event.
            if let Some((Item::Event(event), _)) = watcher.next().await.unwrap() {
                break *event;
            }
        };
        assert_eq!(first, next, "round {round}");
    }
}

#[tokio::test]
async fn watch_after_a_sequence_starts_with_the_event_that_follows() {
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
async fn watch_rejects_a_start_beyond_last_sequence_invalid_fields_and_unknown_spirits() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    create(&mut server.events(), event(&spirit_id)).await;
    let invalid = [
        (
            "one after the last sequence",
            after(&spirit_id, 2),
            "after_sequence",
        ),
        (
            "the largest sequence",
            after(&spirit_id, i64::MAX),
            "after_sequence",
        ),
        ("a negative sequence", after(&spirit_id, -1), "after_sequence"),
        ("a spirit_id that is not a UUID", now("spirit"), "spirit_id"),
        (
            "an unknown view",
            WatchEventsRequest {
                view: 9,
                ..now(&spirit_id)
            },
            "view",
        ),
    ];
    for (case, request, field) in invalid {
        assert_eq!(bad_fields(watch(&server, request).await), [field], "{case}");
    }
    for request in [
        now(UNKNOWN_SPIRIT),
        beginning(UNKNOWN_SPIRIT),
        after(UNKNOWN_SPIRIT, 0),
    ] {
        refused(watch(&server, request).await, Code::NotFound, "SPIRIT_NOT_FOUND");
    }
}

#[tokio::test]
async fn watch_applies_filter_and_view_to_stored_and_new_events() {
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
    let (new, position) = watcher.event().await;
    assert_eq!((new.sequence, new.content, new.meta), (4, None, None));
    assert_eq!(position, 4);
}

#[tokio::test]
async fn watch_sends_deleted_events_in_their_current_state_and_only_with_include_deleted() {
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
async fn deleting_a_spirit_ends_its_watches_after_the_last_event() {
    let first = TestServer::start().await;
    let second = TestServer::start_on(first.database.clone(), |_| {}).await;
    let spirit_id = first.spirit().await;
    let mut watchers = Vec::new();
    for server in [&first, &second] {
        let mut watcher = watch(server, now(&spirit_id)).await.unwrap();
        watcher.caught_up().await;
        watchers.push(watcher);
    }
    create(&mut first.events(), event(&spirit_id)).await;
    let delete = SoftDeleteSpiritRequest {
        spirit_id: spirit_id.clone(),
        ..SoftDeleteSpiritRequest::default()
    };
    second.spirits().soft_delete_spirit(delete).await.unwrap();
    watchers.push(watch(&first, beginning(&spirit_id)).await.unwrap()); // started after the deletion
    for mut watcher in watchers {
        assert_eq!(watcher.sequences(1).await, [1]);
        refused(watcher.error().await, Code::NotFound, "SPIRIT_NOT_FOUND");
    }

    let restore = RestoreSpiritRequest {
        spirit_id: spirit_id.clone(),
        ..RestoreSpiritRequest::default()
    };
    first.spirits().restore_spirit(restore).await.unwrap();
    let mut watcher = watch(&second, after(&spirit_id, 1)).await.unwrap();
    assert_eq!(watcher.caught_up().await, 1);
    create(&mut first.events(), event(&spirit_id)).await;
    assert_eq!(watcher.sequences(1).await, [2]);
}
