//! Cursors of `StreamSessionEvents` with `follow`: of both sides of the seam, of other queries, made up.

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

/// A spirit with events in session `s` at these seconds.
async fn session(server: &TestServer, seconds: &[i64]) -> String {
    let spirit_id = server.spirit().await;
    add(server, &spirit_id, seconds).await;
    spirit_id
}

async fn add(server: &TestServer, spirit_id: &str, seconds: &[i64]) {
    let requests = seconds.iter().map(|&seconds| event_at(spirit_id, "s", seconds));
    store(&mut server.events(), requests.collect()).await;
}

fn resumed(spirit_id: &str, cursor: &str) -> StreamSessionEventsRequest {
    StreamSessionEventsRequest {
        start: Some(Start::AfterCursor(cursor.to_owned())),
        ..following(spirit_id, "s")
    }
}

/// 600 events of 16 KiB are more than both ends buffer: the replay is under way while more come.
#[tokio::test]
async fn the_mark_between_replay_and_live_stands_where_the_order_changes() {
    const LONG: i64 = 600;
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    for first in (0..LONG).step_by(150) {
        let requests = (first..first + 150).map(|n| CreateEventRequest {
            content: Some("x".repeat(16 * 1024)),
            ..event_at(&spirit_id, "s", n)
        });
        store(&mut server.events(), requests.collect()).await;
    }
    let mut follower = follow(&server, following(&spirit_id, "s")).await.unwrap();
    assert_eq!(follower.sequences(1).await, [1]);
    add(&server, &spirit_id, &[-1, 10_000, -2]).await;
    let rest: Vec<i64> = (2..=LONG).collect();
    assert_eq!(follower.sequences(rest.len()).await, rest);
    follower.caught_up().await;
    assert_eq!(follower.sequences(3).await, [LONG + 1, LONG + 2, LONG + 3]);
}

#[tokio::test]
async fn a_cursor_of_a_replay_alone_is_followed_from_its_bound() {
    let server = TestServer::start().await;
    let spirit_id = session(&server, &[30, 10, 20]).await;
    let request = StreamSessionEventsRequest {
        follow: false,
        ..following(&spirit_id, "s")
    };
    let (first, cursor) = follow(&server, request).await.unwrap().event().await;
    assert_eq!(first.sequence, 2);
    add(&server, &spirit_id, &[25, 5]).await;
    let mut follower = follow(&server, resumed(&spirit_id, &cursor)).await.unwrap();
    assert_eq!(follower.sequences(2).await, [3, 1]);
    follower.caught_up().await;
    assert_eq!(follower.sequences(2).await, [4, 5]);

    let request = StreamSessionEventsRequest {
        follow: false,
        ..resumed(&spirit_id, &cursor)
    };
    let replay = server.events().stream_session_events(request).await.unwrap();
    let rest = drain(replay.into_inner()).await.unwrap();
    assert_eq!(sequences(rest.iter().map(|(event, _)| event)), [3, 4, 1]);
}

#[tokio::test]
async fn a_live_cursor_goes_on_by_sequence_and_says_caught_up_behind_what_it_missed() {
    let server = TestServer::start().await;
    let spirit_id = session(&server, &[30, 10]).await;
    let mut follower = follow(&server, following(&spirit_id, "s")).await.unwrap();
    follower.sequences(2).await;
    let caught_up = follower.caught_up().await;
    add(&server, &spirit_id, &[20]).await;
    let (_, live) = follower.event().await;
    add(&server, &spirit_id, &[40, 25]).await;
    for (cursor, missed) in [(caught_up, vec![3, 4, 5]), (live, vec![4, 5])] {
        let mut follower = follow(&server, resumed(&spirit_id, &cursor)).await.unwrap();
        assert_eq!(follower.sequences(missed.len()).await, missed);
        follower.caught_up().await;
    }
}

#[tokio::test]
async fn cursors_of_another_query_are_refused_whatever_their_phase() {
    let server = TestServer::start().await;
    let spirit_id = session(&server, &[1, 2]).await;
    let mut follower = follow(&server, following(&spirit_id, "s")).await.unwrap();
    let (_, replay) = follower.event().await;
    follower.event().await;
    let live = follower.caught_up().await;
    let other_spirit = session(&server, &[1, 2]).await;
    for cursor in [replay, live] {
        let good = resumed(&spirit_id, &cursor);
        let filter = Some(EventFilter {
            include_deleted: true,
            ..EventFilter::default()
        });
        let another_filter = StreamSessionEventsRequest {
            filter,
            ..good.clone()
        };
        let mut another_session = good.clone();
        another_session.session_id = "t".to_owned();
        let another_spirit = resumed(&other_spirit, &cursor);
        for request in [another_filter, another_session, another_spirit] {
            let refusal = server.events().stream_session_events(request).await;
            refused(refusal, Code::InvalidArgument, "INVALID_CURSOR");
        }
        // View and limit are no part of the query.
        let request = StreamSessionEventsRequest {
            view: EventView::Basic.into(),
            limit: 5,
            ..good
        };
        follow(&server, request).await.unwrap();
    }
}

/// A cursor is checked, not signed: its numbers may be any.
#[tokio::test]
async fn a_made_up_bound_is_only_a_position() {
    const BOUND_AT: usize = 18; // behind version, hash and phase
    let server = TestServer::start().await;
    let spirit_id = session(&server, &[1, 2]).await;
    let mut follower = follow(&server, following(&spirit_id, "s")).await.unwrap();
    follower.sequences(2).await;
    let cursor = follower.caught_up().await;
    for (bound, seen) in [(i64::MIN, vec![1, 2]), (i64::MAX, vec![])] {
        let mut bytes = URL_SAFE_NO_PAD.decode(&cursor).unwrap();
        bytes[BOUND_AT..BOUND_AT + 8].copy_from_slice(&bound.to_be_bytes());
        let body = bytes.len() - 4;
        let checksum = Sha256::digest(&bytes[..body]);
        bytes[body..].copy_from_slice(&checksum[..4]);
        let request = resumed(&spirit_id, &URL_SAFE_NO_PAD.encode(bytes));
        let mut follower = follow(&server, request).await.unwrap();
        assert_eq!(follower.sequences(seen.len()).await, seen);
        follower.caught_up().await;
    }
}
