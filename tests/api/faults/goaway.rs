//! What a connection is told when its server ends, frame by frame.

use std::collections::BTreeMap;

use sqlx::PgConnection;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::builders::{keyed, lock_spirit};
use crate::support::frames::{Frame, Frames, GoAway, Kind};
use crate::support::harness::{PATIENCE, TestServer, eventually};
use crate::support::raw::encoded;
use crate::support::scrape::Scrape;

const CREATE: &str = "/elephantasm.events.v1.EventService/CreateEvent";
const NO_ERROR: u32 = 0;
/// "I shall end, and take what is on its way": the streams that are taken are told next.
const SOON: GoAway = GoAway {
    last_stream: (1 << 31) - 1,
    error: NO_ERROR,
};

/// What came on a connection until it was closed.
#[derive(Debug, Default)]
struct Rest {
    go_aways: Vec<GoAway>,
    /// The kinds of each stream's frames, in order.
    streams: BTreeMap<u32, Vec<Kind>>,
}

async fn read_to_end(frames: &mut Frames) -> Rest {
    let mut rest = Rest::default();
    while let Some(frame) = frames.next().await {
        if frame.is_ping_request() {
            frames.pong(&frame).await;
        }
        rest.go_aways.extend(frame.go_away());
        if frame.stream > 0 {
            rest.streams.entry(frame.stream).or_default().push(frame.kind);
        }
    }
    rest
}

/// Reads until the server has said that it will end and asks whether that was heard; does not answer.
async fn told(frames: &mut Frames) -> Frame {
    let mut first = None;
    loop {
        let frame = frames.next().await.expect("it does not just close");
        first = first.or(frame.go_away());
        if frame.is_ping_request() && first.is_some() {
            assert_eq!(first, Some(SOON));
            return frame;
        }
    }
}

fn create(spirit_id: &str, dedupe_key: &str) -> Vec<u8> {
    encoded(&keyed(spirit_id, dedupe_key))
}

async fn a_create_waits_for_its_spirit(beside: &mut PgConnection) {
    eventually("the create waits for its spirit", async || {
        let waiting: (bool,) = sqlx::query_as(
            "select count(*) > 0 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()",
        )
        .fetch_one(&mut *beside)
        .await
        .unwrap();
        waiting.0.then_some(())
    })
    .await;
}

/// A connection without calls is told that none was taken, and closed.
async fn idle_ends(mut idle: Frames) {
    let ping = told(&mut idle).await;
    idle.pong(&ping).await;
    let nothing_taken = GoAway {
        last_stream: 0,
        error: NO_ERROR,
    };
    let rest = read_to_end(&mut idle).await;
    assert_eq!(rest.go_aways, [nothing_taken], "{rest:?}");
}

/// A call that was sent before its client could know that the server ends is refused, and one that was sent after is
/// not taken.
async fn takes_nothing_new(busy: &mut Frames, server: &TestServer, spirit_id: &str) {
    let ping = told(busy).await;
    busy.call(3, CREATE, &create(spirit_id, "on its way")).await;
    loop {
        let frame = busy.next().await.expect("the call is answered");
        assert_ne!((frame.kind, frame.stream), (Kind::Data, 3), "a reply");
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
        let frame = busy.next().await.expect("the last stream is told");
        if let Some(go_away) = frame.go_away() {
            break go_away;
        }
    };
    assert_eq!((last.last_stream, last.error), (3, NO_ERROR));
    busy.call(5, CREATE, &create(spirit_id, "too late")).await;
}

async fn connects_nobody(server: &TestServer) {
    match TcpStream::connect(server.addr).await {
        Ok(mut late) => {
            let served = timeout(PATIENCE, late.read(&mut [0])).await;
            assert!(served.expect("it is closed").unwrap_or(0) == 0, "it is served");
        }
        Err(refused) => assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ends_says_goaway_finishes_what_is_under_way_and_takes_nothing_new() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let (mut holder, mut beside) = (server.database.connect().await, server.database.connect().await);
    let lock = lock_spirit(&mut holder, &spirit_id).await;
    let idle = Frames::connect(server.addr).await;
    let mut busy = Frames::connect(server.addr).await;
    busy.call(1, CREATE, &create(&spirit_id, "under way")).await;
    a_create_waits_for_its_spirit(&mut beside).await;
    server.shut_down();

    idle_ends(idle).await;
    takes_nothing_new(&mut busy, &server, &spirit_id).await;
    connects_nobody(&server).await;
    lock.rollback().await.unwrap();
    let rest = read_to_end(&mut busy).await;
    assert_eq!(
        rest.streams[&1],
        [Kind::Headers, Kind::Data, Kind::Headers],
        "{rest:?}"
    );
    let late = rest.streams.get(&5).cloned().unwrap_or_default();
    assert!(late.is_empty() || late == [Kind::Reset], "{rest:?}");

    let stored: Vec<(String,)> = sqlx::query_as("select dedupe_key from events")
        .fetch_all(&mut beside)
        .await
        .unwrap();
    assert_eq!(stored, [("under way".to_owned(),)]);
    server.stop().await.unwrap();
}
