//! Watches, replays, pages, guards and histories that meet purged ranges.

use elephantasm_events::grpc::pb::{
    ChangeKind, CreateEventRequest, EventOrder, ListEventChangesRequest, ListEventsRequest,
    PurgeEventsRequest, UpdateEventRequest,
};
use tonic::Code;

use super::{of_all, of_session, of_spirit, purged};
use crate::support::builders::{create, drain, event_at, get, list, refused, stream};
use crate::support::harness::TestServer;
use crate::support::live::{after, beginning, changes_after, following, watch};
use crate::support::model::store;

#[tokio::test]
async fn watches_and_followed_replays_pass_over_purged_ranges() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let of = |session: &str| event_at(&spirit_id, session, 1);
    let requests = ["a", "b", "b", "a", "b"].map(of);
    store(&mut server.events(), requests.to_vec()).await;
    let mut followed = watch(&server, after(&spirit_id, 3)).await.unwrap();
    let sequences: Vec<i64> = followed.sequences(2).await;
    assert_eq!(sequences, [4, 5]);
    purged(&server, of_session(&spirit_id, "b")).await.unwrap();

    for (start, expected) in [(0, vec![1, 4]), (2, vec![4]), (4, vec![]), (5, vec![])] {
        let mut watcher = watch(&server, after(&spirit_id, start)).await.unwrap();
        assert_eq!(watcher.sequences(expected.len()).await, expected);
        assert_eq!(watcher.caught_up().await, 5, "after {start}");
    }
    let replay = server
        .events()
        .stream_session_events(stream(&spirit_id, "b"))
        .await;
    assert_eq!(drain(replay.unwrap().into_inner()).await.unwrap(), []);
    let replay = server
        .events()
        .stream_session_events(following(&spirit_id, "a"))
        .await;
    let mut replay = crate::support::live::Reader(replay.unwrap().into_inner());
    assert_eq!(replay.sequences(2).await, [1, 4]);
    replay.caught_up().await;

    purged(&server, of_all(&spirit_id)).await.unwrap();
    let mut empty = watch(&server, beginning(&spirit_id)).await.unwrap();
    assert_eq!(empty.caught_up().await, 5);
    assert_eq!(followed.caught_up().await, 5);
    create(&mut server.events(), of("a")).await;
    assert_eq!(empty.event().await.0.sequence, 6);
    assert_eq!(followed.event().await.0.sequence, 6);
    assert_eq!(replay.event().await.0.sequence, 6);
}

#[tokio::test]
async fn page_tokens_of_purged_events_stay_valid_and_guards_see_what_is_left() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let requests = (0..6).map(|n| event_at(&spirit_id, "s", n));
    let events = store(&mut server.events(), requests.collect()).await;
    for order in [EventOrder::OldestFirst, EventOrder::Sequence] {
        let request = ListEventsRequest {
            page_size: 2,
            order: order.into(),
            ..list(&spirit_id)
        };
        let page = server
            .events()
            .list_events(request.clone())
            .await
            .unwrap()
            .into_inner();
        let last = page.events.last().unwrap();
        let of_ids = |event_ids| PurgeEventsRequest {
            event_ids,
            ..of_spirit(&spirit_id)
        };
        purged(&server, of_ids(vec![last.id.clone()])).await.unwrap();
        let next = ListEventsRequest {
            page_token: page.next_page_token,
            ..request
        };
        let next = server.events().list_events(next).await.unwrap().into_inner();
        assert!(next.events[0].sequence > last.sequence);
    }
    let newest = PurgeEventsRequest {
        event_ids: vec![events[5].id.clone()],
        ..of_spirit(&spirit_id)
    };
    purged(&server, newest).await.unwrap();
    let missing = server.events().get_event(get(&events[5].id)).await;
    refused(missing, Code::NotFound, "EVENT_NOT_FOUND");
    let guarded = |last, of_session| CreateEventRequest {
        expected_last_sequence: last,
        expected_session_last_sequence: of_session,
        ..event_at(&spirit_id, "s", 9)
    };
    let stale = server.events().create_event(guarded(None, Some(6))).await;
    refused(stale, Code::Aborted, "SEQUENCE_MISMATCH");
    let created = create(&mut server.events(), guarded(Some(6), Some(5))).await;
    assert_eq!(created.sequence, 7);
}

#[tokio::test]
async fn a_purge_is_a_change_and_clears_the_former_values_of_its_events() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let requests = (0..2).map(|n| event_at(&spirit_id, "s", n));
    let events = store(&mut server.events(), requests.collect()).await;
    for event in &events {
        for role in ["one", "two"] {
            let request = UpdateEventRequest {
                event_id: event.id.clone(),
                role: Some(role.to_owned()),
                ..UpdateEventRequest::default()
            };
            server.events().update_event(request).await.unwrap();
        }
    }
    let mut watcher = changes_after(&server, &spirit_id, 4).await.unwrap();
    assert_eq!(watcher.caught_up().await, 4);
    let request = PurgeEventsRequest {
        event_ids: vec![events[0].id.clone()],
        ..of_spirit(&spirit_id)
    };
    purged(&server, request).await.unwrap();
    let purge = watcher.change().await;
    assert_eq!((purge.change, purge.kind()), (5, ChangeKind::Purged));
    assert_eq!((purge.event_ids.len(), purge.sequences), (1, vec![1]));
    for (event, kept, count) in [(&events[0], false, 3), (&events[1], true, 2)] {
        let request = ListEventChangesRequest {
            event_id: event.id.clone(),
            ..ListEventChangesRequest::default()
        };
        let listed = server.events().list_event_changes(request).await.unwrap();
        let changes = listed.into_inner().changes;
        assert_eq!(changes.len(), count);
        let updates = changes
            .iter()
            .filter(|change| change.kind() == ChangeKind::Updated);
        for change in updates {
            assert_eq!(
                (change.previous.is_some(), &change.fields),
                (kept, &vec!["role".to_owned()])
            );
        }
    }
}
