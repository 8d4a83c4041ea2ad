//! `expected_session_last_sequence`: writers of one session exclude each other, writers of different sessions do not.

use elephantasm_events::grpc::pb::batch_create_events_result::Result as Item;
use elephantasm_events::grpc::pb::{
    BatchCreateEventsRequest, BatchMode, CreateEventRequest, ListSessionsRequest, SoftDeleteEventRequest,
};
use futures_util::future::join_all;
use tonic::Code;

use crate::support::builders::{bad_fields, create, event_at, metadata, refused};
use crate::support::harness::TestServer;

/// A create in the session that expects this last sequence of the session.
fn guarded(spirit_id: &str, session_id: &str, expected: i64) -> CreateEventRequest {
    CreateEventRequest {
        expected_session_last_sequence: Some(expected),
        ..event_at(spirit_id, session_id, 1)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_one_of_two_concurrent_guarded_creates_of_a_session_succeeds() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    for round in 0..20 {
        let session_id = format!("session {round}");
        let creates = [0, 1].map(|_| {
            let (mut events, request) = (server.events(), guarded(&spirit_id, &session_id, 0));
            async move { events.create_event(request).await }
        });
        let (succeeded, failed): (Vec<_>, Vec<_>) =
            join_all(creates).await.into_iter().partition(Result::is_ok);
        assert_eq!((succeeded.len(), failed.len()), (1, 1));
        for result in failed {
            let status = refused(result, Code::Aborted, "SEQUENCE_MISMATCH");
            assert_eq!(metadata(&status, "expected"), "0");
            assert_eq!(metadata(&status, "actual"), (round + 1).to_string());
            assert_eq!(metadata(&status, "session_id"), session_id);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_of_different_sessions_of_a_spirit_never_abort_each_other() {
    const WRITERS: usize = 8;
    const EVENTS_EACH: usize = 50;
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let writers = (0..WRITERS).map(|writer| {
        let (mut events, spirit_id) = (server.events(), spirit_id.clone());
        tokio::spawn(async move {
            let mut last = 0;
            for _ in 0..EVENTS_EACH {
                let request = guarded(&spirit_id, &format!("session {writer}"), last);
                last = create(&mut events, request).await.sequence;
            }
        })
    });
    for ended in join_all(writers).await {
        ended.unwrap();
    }
    let request = ListSessionsRequest {
        spirit_id,
        ..ListSessionsRequest::default()
    };
    let sessions = server.sessions().list_sessions(request).await;
    let sessions = sessions.unwrap().into_inner().sessions;
    assert_eq!(sessions.len(), WRITERS);
    assert!(sessions.iter().all(|session| session.event_count() == 50));
}

#[tokio::test]
async fn the_last_sequence_of_a_session_counts_deleted_events_and_no_other_session() {
    let server = TestServer::start().await;
    let (spirit_id, other) = (server.spirit().await, server.spirit().await);
    let mut events = server.events();
    create(&mut events, guarded(&spirit_id, "a", 0)).await;
    let last = create(&mut events, guarded(&spirit_id, "a", 1)).await;
    // Sessions whose ids come before and after it, and the session of another spirit with the same id.
    create(&mut events, guarded(&spirit_id, "A", 0)).await;
    create(&mut events, guarded(&spirit_id, "aa", 0)).await;
    create(&mut events, guarded(&other, "a", 0)).await;
    let deletion = SoftDeleteEventRequest {
        event_id: last.id,
        ..SoftDeleteEventRequest::default()
    };
    events.soft_delete_event(deletion).await.unwrap();

    let session = ListSessionsRequest {
        spirit_id: spirit_id.clone(),
        ..ListSessionsRequest::default()
    };
    let sessions = server
        .sessions()
        .list_sessions(session)
        .await
        .unwrap()
        .into_inner()
        .sessions;
    let mut last_sequences: Vec<(&str, i64)> = sessions
        .iter()
        .map(|session| (session.session_id.as_str(), session.last_sequence))
        .collect();
    last_sequences.sort_unstable();
    assert_eq!(last_sequences, [("A", 3), ("a", 2), ("aa", 4)]);

    let status = refused(
        events.create_event(guarded(&spirit_id, "a", 1)).await,
        Code::Aborted,
        "SEQUENCE_MISMATCH",
    );
    assert_eq!(metadata(&status, "actual"), "2");
    assert_eq!(create(&mut events, guarded(&spirit_id, "a", 2)).await.sequence, 5);
}

#[tokio::test]
async fn guards_of_a_batch_see_its_earlier_items_of_their_session() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut events = server.events();
    let batch = |mode: BatchMode, requests: Vec<CreateEventRequest>| BatchCreateEventsRequest {
        requests,
        mode: mode.into(),
    };
    let requests = vec![
        guarded(&spirit_id, "a", 0),
        event_at(&spirit_id, "b", 1),
        guarded(&spirit_id, "a", 1),
        event_at(&spirit_id, "a", 1),
        guarded(&spirit_id, "b", 2),
        guarded(&spirit_id, "a", 3),
    ];
    let status = refused(
        events
            .batch_create_events(batch(BatchMode::Atomic, requests.clone()))
            .await,
        Code::Aborted,
        "SEQUENCE_MISMATCH",
    );
    assert_eq!(metadata(&status, "failed_indexes"), "5");
    assert_eq!(metadata(&status, "actual"), "4");
    assert_eq!(metadata(&status, "session_id"), "a");

    // The refused batch stored nothing.
    let results = events
        .batch_create_events(batch(BatchMode::Partial, requests))
        .await
        .unwrap()
        .into_inner()
        .results;
    let sequences: Vec<Option<i64>> = results
        .into_iter()
        .map(|result| match result.result {
            Some(Item::Created(created)) => Some(created.event.unwrap().sequence),
            _ => None,
        })
        .collect();
    assert_eq!(sequences, [Some(1), Some(2), Some(3), Some(4), Some(5), None]);
}

#[tokio::test]
async fn both_guards_must_hold_and_that_of_the_spirit_is_checked_first() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut events = server.events();
    create(&mut events, guarded(&spirit_id, "a", 0)).await;
    for (spirit, session, failing) in [
        (1, 1, None),
        (1, 2, Some("expected_last_sequence")),
        (2, 1, Some("expected_session_last_sequence")),
        (9, 9, Some("expected_last_sequence")),
    ] {
        let request = CreateEventRequest {
            expected_last_sequence: Some(spirit),
            ..guarded(&spirit_id, "a", session)
        };
        let result = events.create_event(request).await;
        match failing {
            None => assert_eq!(result.unwrap().into_inner().event.unwrap().sequence, 2),
            Some(field) => {
                let status = refused(result, Code::Aborted, "SEQUENCE_MISMATCH");
                assert!(status.message().starts_with(field), "{status:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_guard_on_the_session_needs_a_session() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let request = CreateEventRequest {
        session_id: None,
        ..guarded(&spirit_id, "a", 0)
    };
    let fields = bad_fields(server.events().create_event(request).await);
    assert_eq!(fields, ["expected_session_last_sequence"]);
}
