//! `StreamSessionEvents` with `follow`: a replay that continues with newly committed events.

use std::collections::BTreeSet;
use std::sync::Arc;

use elephantasm_events::grpc::pb::stream_session_events_request::Start;
use elephantasm_events::grpc::pb::{
    EventFilter, EventOrder, RestoreSpiritRequest, SoftDeleteSpiritRequest, StreamSessionEventsRequest,
};
use tokio::task::JoinSet;
use tonic::Code;

use crate::support::builders::{at, create, drain, event_at, refused};
use crate::support::harness::TestServer;
use crate::support::live::{Item, Rng, follow, following};

const UNKNOWN_SPIRIT: &str = "00000000-0000-7000-8000-000000000000";

/// Stores an event in session `s` and returns its sequence.
async fn add(server: &TestServer, spirit_id: &str, seconds: i64) -> i64 {
    create(&mut server.events(), event_at(spirit_id, "s", seconds))
        .await
        .sequence
}

/// Creates a spirit with events at seconds 30, 10 and 20 in session `s`, then one in session `other`.
async fn spirit_with_session(server: &TestServer) -> String {
    let spirit_id = server.spirit().await;
    for seconds in [30, 10, 20] {
        add(server, &spirit_id, seconds).await;
    }
    create(&mut server.events(), event_at(&spirit_id, "other", 15)).await;
    spirit_id
}

/// Follows session `s` after a cursor.
fn resume_after(spirit_id: &str, cursor: String) -> StreamSessionEventsRequest {
    StreamSessionEventsRequest {
        start: Some(Start::AfterCursor(cursor)),
        ..following(spirit_id, "s")
    }
}

#[tokio::test]
async fn follow_sends_the_replay_then_caught_up_then_new_events_in_sequence_order() {
    let server = TestServer::start().await;
    let spirit_id = spirit_with_session(&server).await;
    let mut follower = follow(&server, following(&spirit_id, "s")).await.unwrap();
    assert_eq!(follower.sequences(3).await, [2, 3, 1]);
    follower.caught_up().await;
    for seconds in [40, 5, 35] {
        let sequence = add(&server, &spirit_id, seconds).await;
        create(&mut server.events(), event_at(&spirit_id, "other", seconds)).await;
        assert_eq!(follower.sequences(1).await, [sequence]);
    }
}

#[tokio::test]
async fn a_follow_in_sequence_order_sends_stored_and_new_events_in_one_order() {
    let server = TestServer::start().await;
    let spirit_id = spirit_with_session(&server).await;
    let in_sequence = |start| StreamSessionEventsRequest {
        order: EventOrder::Sequence.into(),
        start,
        ..following(&spirit_id, "s")
    };
    let mut follower = follow(&server, in_sequence(None)).await.unwrap();
    assert_eq!(follower.sequences(3).await, [1, 2, 3]);
    follower.caught_up().await;
    let added = add(&server, &spirit_id, 5).await;
    assert_eq!(follower.sequences(1).await, [added]);
    for (start, sequences) in [
        (Start::AfterSequence(0), &[1, 2, 3, added][..]),
        (Start::AfterSequence(2), &[3, added]),
        (Start::AfterSequence(added), &[]),
        (Start::LastN(2), &[3, added]),
    ] {
        let mut follower = follow(&server, in_sequence(Some(start.clone()))).await.unwrap();
        assert_eq!(follower.sequences(sequences.len()).await, sequences, "{start:?}");
        follower.caught_up().await;
    }
}

#[tokio::test]
async fn the_start_of_a_follow_limits_the_replay_but_not_new_events() {
    let server = TestServer::start().await;
    let starts = [
        ("a session without events", "new", None, vec![]),
        ("the last event", "s", Some(Start::LastN(1)), vec![1]),
        (
            "more events than stored",
            "s",
            Some(Start::LastN(9)),
            vec![2, 3, 1],
        ),
        ("a time", "s", Some(Start::FromTime(at(20))), vec![3, 1]),
        ("a time in the future", "s", Some(Start::FromTime(at(99))), vec![]),
    ];
    for (case, session_id, start, replayed) in starts {
        let spirit_id = spirit_with_session(&server).await;
        let request = StreamSessionEventsRequest {
            start,
            ..following(&spirit_id, session_id)
        };
        let mut follower = follow(&server, request).await.unwrap();
        assert_eq!(follower.sequences(replayed.len()).await, replayed, "{case}");
        follower.caught_up().await;
        for sequence in [5, 6] {
            create(&mut server.events(), event_at(&spirit_id, session_id, 1)).await;
            assert_eq!(follower.sequences(1).await, [sequence], "{case}");
        }
    }
}

#[tokio::test]
async fn the_limit_of_a_follow_counts_replayed_and_live_events() {
    let server = TestServer::start().await;
    let spirit_id = spirit_with_session(&server).await;
    for limit in [2, 3] {
        let request = StreamSessionEventsRequest {
            limit,
            ..following(&spirit_id, "s")
        };
        let mut follower = follow(&server, request).await.unwrap();
        let expected = &[2, 3, 1][..usize::try_from(limit).unwrap()];
        assert_eq!(follower.sequences(expected.len()).await, expected);
        assert!(
            follower.next().await.unwrap().is_none(),
            "the stream does not end after {limit} events"
        );
    }
    let request = StreamSessionEventsRequest {
        limit: 5,
        ..following(&spirit_id, "s")
    };
    let mut follower = follow(&server, request).await.unwrap();
    follower.sequences(3).await;
    follower.caught_up().await;
    for seconds in [1, 2, 3] {
        add(&server, &spirit_id, seconds).await;
    }
    assert_eq!(follower.sequences(2).await, [5, 6]);
    assert!(follower.next().await.unwrap().is_none());
}

#[tokio::test]
async fn the_filter_of_a_follow_applies_to_replayed_and_live_events() {
    let server = TestServer::start().await;
    let spirit_id = spirit_with_session(&server).await;
    let request = StreamSessionEventsRequest {
        filter: Some(EventFilter {
            occurred_from: Some(at(20)),
            ..EventFilter::default()
        }),
        ..following(&spirit_id, "s")
    };
    let mut follower = follow(&server, request).await.unwrap();
    assert_eq!(follower.sequences(2).await, [3, 1]);
    follower.caught_up().await;
    add(&server, &spirit_id, 19).await;
    let sequence = add(&server, &spirit_id, 20).await;
    assert_eq!(follower.sequences(1).await, [sequence]);
}

#[tokio::test]
async fn following_an_unknown_spirit_fails_and_deleting_a_spirit_ends_its_follows() {
    let server = TestServer::start().await;
    let unknown = follow(&server, following(UNKNOWN_SPIRIT, "s")).await;
    refused(unknown, Code::NotFound, "SPIRIT_NOT_FOUND");

    let spirit_id = spirit_with_session(&server).await;
    let mut follower = follow(&server, following(&spirit_id, "s")).await.unwrap();
    follower.sequences(3).await;
    let cursor = follower.caught_up().await;
    add(&server, &spirit_id, 1).await;
    let delete = SoftDeleteSpiritRequest {
        spirit_id: spirit_id.clone(),
        ..SoftDeleteSpiritRequest::default()
    };
    server.spirits().soft_delete_spirit(delete).await.unwrap();
    assert_eq!(follower.sequences(1).await, [5]);
    refused(follower.error().await, Code::NotFound, "SPIRIT_NOT_FOUND");

    let restore = RestoreSpiritRequest {
        spirit_id: spirit_id.clone(),
        ..RestoreSpiritRequest::default()
    };
    server.spirits().restore_spirit(restore).await.unwrap();
    let mut follower = follow(&server, resume_after(&spirit_id, cursor)).await.unwrap();
    assert_eq!(follower.sequences(1).await, [5]);
    follower.caught_up().await;
    add(&server, &spirit_id, 1).await;
    assert_eq!(follower.sequences(1).await, [6]);
}

#[tokio::test]
async fn a_replay_cursor_resumes_the_replay_up_to_its_bound_and_then_follows_by_sequence() {
    let server = TestServer::start().await;
    let spirit_id = spirit_with_session(&server).await;
    let mut follower = follow(&server, following(&spirit_id, "s")).await.unwrap();
    let (first, cursor) = follower.event().await;
    assert_eq!(first.sequence, 2);
    // In replay order the first event is after the cursor and the second before it; both are above the bound.
    add(&server, &spirit_id, 25).await;
    add(&server, &spirit_id, 1).await;
    let mut follower = follow(&server, resume_after(&spirit_id, cursor)).await.unwrap();
    assert_eq!(follower.sequences(2).await, [3, 1]);
    follower.caught_up().await;
    assert_eq!(follower.sequences(2).await, [5, 6]);
}

#[tokio::test]
async fn a_live_cursor_without_follow_resumes_in_replay_order() {
    let server = TestServer::start().await;
    let spirit_id = spirit_with_session(&server).await;
    let mut follower = follow(&server, following(&spirit_id, "s")).await.unwrap();
    follower.sequences(3).await;
    let caught_up = follower.caught_up().await;
    add(&server, &spirit_id, 15).await;
    let (back_dated, live) = follower.event().await;
    assert_eq!(back_dated.sequence, 5);
    add(&server, &spirit_id, 40).await;
    for (cursor, expected) in [(caught_up, vec![6]), (live, vec![3, 1, 6])] {
        let request = StreamSessionEventsRequest {
            follow: false,
            ..resume_after(&spirit_id, cursor)
        };
        let response = server.events().stream_session_events(request).await.unwrap();
        let rest = drain(response.into_inner()).await.unwrap();
        let sequences: Vec<i64> = rest.iter().map(|(event, _)| event.sequence).collect();
        assert_eq!(sequences, expected);
    }
}

#[tokio::test]
async fn the_cursor_of_an_empty_replay_keeps_its_from_time() {
    let server = TestServer::start().await;
    let spirit_id = spirit_with_session(&server).await;
    let request = StreamSessionEventsRequest {
        start: Some(Start::FromTime(at(99))),
        ..following(&spirit_id, "s")
    };
    let mut follower = follow(&server, request).await.unwrap();
    let cursor = follower.caught_up().await;
    add(&server, &spirit_id, 50).await;
    let sequence = add(&server, &spirit_id, 99).await;
    let request = StreamSessionEventsRequest {
        follow: false,
        ..resume_after(&spirit_id, cursor)
    };
    let response = server.events().stream_session_events(request).await.unwrap();
    let rest = drain(response.into_inner()).await.unwrap();
    assert_eq!(rest.len(), 1);
    assert_eq!(rest[0].0.sequence, sequence);
}

/// Follows a session with short streams, each resumed from the last cursor, until `count` events have
/// arrived.
async fn follow_in_short_streams(
    server: Arc<TestServer>,
    spirit_id: String,
    session_id: String,
    count: usize,
) -> Vec<i64> {
    let mut rng = Rng::new();
    let (mut received, mut last_cursor) = (Vec::new(), None);
    while received.len() < count {
        let limit = (rng.below(4) + 1).min((count - received.len()) as u64);
        let request = StreamSessionEventsRequest {
            start: last_cursor.clone().map(Start::AfterCursor),
            limit: i32::try_from(limit).unwrap(),
            ..following(&spirit_id, &session_id)
        };
        let mut follower = follow(&server, request).await.unwrap();
        while let Some((item, cursor)) = follower.next().await.unwrap() {
            last_cursor = Some(cursor);
            if let Item::Event(event) = item {
                received.push(event.sequence);
            }
        }
    }
    received
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_under_load_receive_every_event_of_a_session_exactly_once() {
    const SESSIONS: usize = 50;
    const EVENTS: usize = 12;
    const FOLLOWERS: usize = 3;
    let server = Arc::new(TestServer::start().await);
    let spirit_id = server.spirit().await;
    for session in 0..SESSIONS {
        let session_id = session.to_string();
        let mut writers = JoinSet::new();
        for _ in 0..2 {
            let (mut events, spirit_id, session_id) =
                (server.events(), spirit_id.clone(), session_id.clone());
            writers.spawn(async move {
                let mut rng = Rng::new();
                let mut stored = Vec::new();
                for _ in 0..EVENTS / 2 {
                    let seconds = i64::try_from(rng.below(1_000)).unwrap();
                    let created = create(&mut events, event_at(&spirit_id, &session_id, seconds)).await;
                    stored.push(created.sequence);
                }
                stored
            });
        }
        let mut followers = JoinSet::new();
        for _ in 0..FOLLOWERS {
            let server = Arc::clone(&server);
            followers.spawn(follow_in_short_streams(
                server,
                spirit_id.clone(),
                session_id.clone(),
                EVENTS,
            ));
        }
        let stored: BTreeSet<i64> = writers.join_all().await.concat().into_iter().collect();
        for received in followers.join_all().await {
            let distinct: BTreeSet<i64> = received.iter().copied().collect();
            assert_eq!(distinct, stored, "session {session}: {received:?}");
            assert_eq!(received.len(), EVENTS, "session {session}: {received:?}");
        }
    }
}
