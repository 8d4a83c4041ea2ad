//! The graceful shutdown of an HTTP/2 connection, frame by frame.

use std::collections::BTreeMap;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::builders::{a_statement_is_blocked, keyed, lock_spirit};
use crate::support::frames::{Frame, Frames, GoAway, Kind};
use crate::support::harness::{PATIENCE, TestServer, eventually};
use crate::support::raw::encoded;
use crate::support::scrape::Scrape;

const CREATE: &str = "/elephantasm.events.v1.EventService/CreateEvent";
const NO_ERROR: u32 = 0;
/// The first GOAWAY of a graceful shutdown: it announces the shutdown and still accepts every stream. A second
/// GOAWAY names the last stream that was processed.
const SHUTDOWN_NOTICE: GoAway = GoAway {
    last_stream: (1 << 31) - 1,
    error: NO_ERROR,
};

/// The frames that arrived on a connection until it was closed.
#[derive(Debug, Default)]
struct Remaining {
    go_aways: Vec<GoAway>,
    /// The kinds of each stream's frames, in order.
    streams: BTreeMap<u32, Vec<Kind>>,
}

async fn read_to_end(frames: &mut Frames) -> Remaining {
    let mut remaining = Remaining::default();
    while let Some(frame) = frames.next().await {
        if frame.is_ping_request() {
            frames.pong(&frame).await;
        }
        remaining.go_aways.extend(frame.go_away());
        if frame.stream > 0 {
            remaining
                .streams
                .entry(frame.stream)
                .or_default()
                .push(frame.kind);
        }
    }
    remaining
}

/// Reads until the shutdown notice and the ping that follows it, and returns that ping unanswered.
async fn read_shutdown_notice(frames: &mut Frames) -> Frame {
    let mut first = None;
    loop {
        let frame = frames.next().await.expect("GOAWAY precedes the close");
        first = first.or(frame.go_away());
        if frame.is_ping_request() && first.is_some() {
            assert_eq!(first, Some(SHUTDOWN_NOTICE));
            return frame;
        }
    }
}

fn create(spirit_id: &str, dedupe_key: &str) -> Vec<u8> {
    encoded(&keyed(spirit_id, dedupe_key))
}

/// Asserts that a connection without calls gets a final GOAWAY with stream 0 and is closed.
async fn assert_idle_connection_is_closed(mut idle: Frames) {
    let ping = read_shutdown_notice(&mut idle).await;
    idle.pong(&ping).await;
    let no_stream_processed = GoAway {
        last_stream: 0,
        error: NO_ERROR,
    };
    let remaining = read_to_end(&mut idle).await;
    assert_eq!(remaining.go_aways, [no_stream_processed], "{remaining:?}");
}

/// Asserts that a call sent before its client could have processed the notice is refused with UNAVAILABLE, and that a
/// call sent after the final GOAWAY is ignored.
async fn assert_new_calls_are_refused(busy: &mut Frames, server: &TestServer, spirit_id: &str) {
    let ping = read_shutdown_notice(busy).await;
    busy.call(3, CREATE, &create(spirit_id, "on its way")).await;
    loop {
        let frame = busy.next().await.expect("the call is answered");
        assert_ne!(
            (frame.kind, frame.stream),
            (Kind::Data, 3),
            "the refused call got a reply message"
        );
        if frame.ends_stream(3) {
            break;
        }
    }
    eventually("the refusal is counted", async || {
        let refused = Scrape::of(server).await.handled("CreateEvent", "UNAVAILABLE");
        (refused == 1).then_some(())
    })
    .await;
    busy.pong(&ping).await;
    let last = loop {
        let frame = busy.next().await.expect("the final GOAWAY precedes the close");
        if let Some(go_away) = frame.go_away() {
            break go_away;
        }
    };
    assert_eq!((last.last_stream, last.error), (3, NO_ERROR));
    busy.call(5, CREATE, &create(spirit_id, "too late")).await;
}

async fn assert_no_new_connection(server: &TestServer) {
    match TcpStream::connect(server.addr).await {
        Ok(mut late) => {
            let read = timeout(PATIENCE, late.read(&mut [0])).await;
            let bytes = read.expect("the connection is closed").unwrap_or(0);
            assert_eq!(bytes, 0, "a connection after the shutdown was served");
        }
        Err(refused) => assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_sends_goaway_completes_calls_in_flight_and_refuses_new_ones() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut holder = server.database.connect().await;
    let lock = lock_spirit(&mut holder, &spirit_id).await;
    let idle = Frames::connect(server.addr).await;
    let mut busy = Frames::connect(server.addr).await;
    busy.call(1, CREATE, &create(&spirit_id, "under way")).await;
    a_statement_is_blocked(&server).await;
    server.shut_down();

    assert_idle_connection_is_closed(idle).await;
    assert_new_calls_are_refused(&mut busy, &server, &spirit_id).await;
    assert_no_new_connection(&server).await;
    lock.rollback().await.unwrap();
    let remaining = read_to_end(&mut busy).await;
    assert_eq!(
        remaining.streams[&1],
        [Kind::Headers, Kind::Data, Kind::Headers],
        "{remaining:?}"
    );
    let late = remaining.streams.get(&5).cloned().unwrap_or_default();
    assert!(late.is_empty() || late == [Kind::Reset], "{remaining:?}");

    let stored: Vec<(String,)> = sqlx::query_as("select dedupe_key from events")
        .fetch_all(&mut server.database.connect().await)
        .await
        .unwrap();
    assert_eq!(stored, [("under way".to_owned(),)]);
    server.stop().await.unwrap();
}
