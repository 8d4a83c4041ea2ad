//! Cursors of `StreamSessionEvents` with `follow`: from the replay, from the live phase, from other queries,
//! and forged ones.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use elephantasm_events::grpc::pb::stream_session_events_request::Start;
use elephantasm_events::grpc::pb::{CreateEventRequest, EventFilter, EventView, StreamSessionEventsRequest};
use sha2::{Digest as _, Sha256};
use tonic::Code;

use crate::support::builders::{drain, event_at, refused};
use crate::support::harness::TestServer;
use crate::support::live::{follow, following};
use crate::support::model::{sequences, store};

/// Creates a spirit with events in session `s` at these seconds.
async fn spirit_with_session(server: &TestServer, seconds: &[i64]) -> String {
    let spirit_id = server.spirit().await;
    add(server, &spirit_id, seconds).await;
    spirit_id
}

/// Adds events at these seconds to session `s`.
async fn add(server: &TestServer, spirit_id: &str, seconds: &[i64]) {
    let requests = seconds.iter().map(|&seconds| event_at(spirit_id, "s", seconds));
    store(&mut server.events(), requests.collect()).await;
}

/// Follows session `s` after a cursor.
fn resume_after(spirit_id: &str, cursor: &str) -> StreamSessionEventsRequest {
    StreamSessionEventsRequest {
        start: Some(Start::AfterCursor(cursor.to_owned())),
        ..following(spirit_id, "s")
    }
}

/// 600 events of 16 KiB exceed the buffers of both ends, so that the replay is still running when more are
/// created.
#[tokio::test]
async fn caught_up_separates_events_in_replay_order_from_events_in_sequence_order() {
    const EVENTS: i64 = 600;
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    for first in (0..EVENTS).step_by(150) {
        let requests = (first..first + 150).map(|n| CreateEventRequest {
            content: Some("x".repeat(16 * 1024)),
            ..event_at(&spirit_id, "s", n)
        });
        store(&mut server.events(), requests.collect()).await;
    }
    let mut follower = follow(&server, following(&spirit_id, "s")).await.unwrap();
    assert_eq!(follower.sequences(1).await, [1]);
    add(&server, &spirit_id, &[-1, 10_000, -2]).await;
    let rest: Vec<i64> = (2..=EVENTS).collect();
    assert_eq!(follower.sequences(rest.len()).await, rest);
    follower.caught_up().await;
    assert_eq!(follower.sequences(3).await, [EVENTS + 1, EVENTS + 2, EVENTS + 3]);
}

#[tokio::test]
async fn a_replay_cursor_taken_without_follow_resumes_with_and_without_follow() {
    let server = TestServer::start().await;
    let spirit_id = spirit_with_session(&server, &[30, 10, 20]).await;
    let request = StreamSessionEventsRequest {
        follow: false,
        ..following(&spirit_id, "s")
    };
    let (first, cursor) = follow(&server, request).await.unwrap().event().await;
    assert_eq!(first.sequence, 2);
    add(&server, &spirit_id, &[25, 5]).await;
    let mut follower = follow(&server, resume_after(&spirit_id, &cursor)).await.unwrap();
    assert_eq!(follower.sequences(2).await, [3, 1]);
    follower.caught_up().await;
    assert_eq!(follower.sequences(2).await, [4, 5]);

    let request = StreamSessionEventsRequest {
        follow: false,
        ..resume_after(&spirit_id, &cursor)
    };
    let replay = server.events().stream_session_events(request).await.unwrap();
    let rest = drain(replay.into_inner()).await.unwrap();
    assert_eq!(sequences(rest.iter().map(|(event, _)| event)), [3, 4, 1]);
}

#[tokio::test]
async fn a_live_cursor_resumes_by_sequence_and_sends_caught_up_after_the_missed_events() {
    let server = TestServer::start().await;
    let spirit_id = spirit_with_session(&server, &[30, 10]).await;
    let mut follower = follow(&server, following(&spirit_id, "s")).await.unwrap();
    follower.sequences(2).await;
    let caught_up = follower.caught_up().await;
    add(&server, &spirit_id, &[20]).await;
    let (_, live) = follower.event().await;
    add(&server, &spirit_id, &[40, 25]).await;
    for (cursor, missed) in [(caught_up, vec![3, 4, 5]), (live, vec![4, 5])] {
        let mut follower = follow(&server, resume_after(&spirit_id, &cursor)).await.unwrap();
        assert_eq!(follower.sequences(missed.len()).await, missed);
        follower.caught_up().await;
    }
}

#[tokio::test]
async fn replay_and_live_cursors_of_another_query_are_rejected() {
    let server = TestServer::start().await;
    let spirit_id = spirit_with_session(&server, &[1, 2]).await;
    let mut follower = follow(&server, following(&spirit_id, "s")).await.unwrap();
    let (_, replay) = follower.event().await;
    follower.event().await;
    let live = follower.caught_up().await;
    let other_spirit = spirit_with_session(&server, &[1, 2]).await;
    for cursor in [replay, live] {
        let same_query = resume_after(&spirit_id, &cursor);
        let filter = Some(EventFilter {
            include_deleted: true,
            ..EventFilter::default()
        });
        let another_filter = StreamSessionEventsRequest {
            filter,
            ..same_query.clone()
        };
        let mut another_session = same_query.clone();
        another_session.session_id = "t".to_owned();
        let another_spirit = resume_after(&other_spirit, &cursor);
        for request in [another_filter, another_session, another_spirit] {
            let result = server.events().stream_session_events(request).await;
            refused(result, Code::InvalidArgument, "INVALID_CURSOR");
        }
        // View and limit are not part of the query.
        let request = StreamSessionEventsRequest {
            view: EventView::Basic.into(),
            limit: 5,
            ..same_query
        };
        follow(&server, request).await.unwrap();
    }
}

/// A cursor carries a checksum and no signature, so a client can put any numbers into it.
#[tokio::test]
async fn a_cursor_with_a_forged_bound_only_moves_the_position() {
    const BOUND_OFFSET: usize = 18; // after version, hash and phase
    let server = TestServer::start().await;
    let spirit_id = spirit_with_session(&server, &[1, 2]).await;
    let mut follower = follow(&server, following(&spirit_id, "s")).await.unwrap();
    follower.sequences(2).await;
    let cursor = follower.caught_up().await;
    for (bound, expected) in [(i64::MIN, vec![1, 2]), (i64::MAX, vec![])] {
        let mut bytes = URL_SAFE_NO_PAD.decode(&cursor).unwrap();
        bytes[BOUND_OFFSET..BOUND_OFFSET + 8].copy_from_slice(&bound.to_be_bytes());
        let body = bytes.len() - 4;
        let checksum = Sha256::digest(&bytes[..body]);
        bytes[body..].copy_from_slice(&checksum[..4]);
        let request = resume_after(&spirit_id, &URL_SAFE_NO_PAD.encode(bytes));
        let mut follower = follow(&server, request).await.unwrap();
        assert_eq!(follower.sequences(expected.len()).await, expected);
        follower.caught_up().await;
    }
}
