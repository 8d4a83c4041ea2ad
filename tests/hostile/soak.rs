//! Rounds of mixed hostile load: readers that stall, calls that are cancelled, watchers that come and go. The
//! server's memory does not grow from round to round, and is returned when the load ends.

use std::time::{Duration, Instant};

use elephantasm_events::grpc::pb::{ListEventsRequest, StreamSessionEventsRequest, WatchEventsRequest};
use h2::client;
use http::Method;
use prost::Message;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::harness::{event, eventually};
use crate::support::{Host, LIST_EVENTS, MIB, Raw, framed};

const HEADERS: [(&str, &str); 1] = [("content-type", "application/grpc")];
const STREAM: &str = "/elephantasm.events.v1.EventService/StreamSessionEvents";
const WATCH: &str = "/elephantasm.events.v1.EventService/WatchEvents";
/// Calls of each kind in a round.
const STALLED_CONNECTIONS: u32 = 8;
const STALLED_CALLS: usize = 6;
const CANCELLED_CALLS: u64 = 2_000;
const WATCHERS: usize = 40;
const CREATES: usize = 20;
const CONTENT_BYTES: usize = 50_000;
/// Allowed growth from the median of the second quarter of the rounds to that of the last: noise of the allocator.
const GROWTH_MAX: usize = 24 * MIB;

/// Duration of the load; `EVENTS_TEST_SOAK_SECONDS` sets another one.
fn duration() -> Duration {
    let seconds = std::env::var("EVENTS_TEST_SOAK_SECONDS").map_or(40, |text| text.parse().unwrap());
    Duration::from_secs(seconds)
}

/// The messages of the calls, which all read the same session.
struct Messages {
    list: Vec<u8>,
    replay: Vec<u8>,
    watch: Vec<u8>,
}

impl Messages {
    fn new(spirit_id: &str) -> Self {
        let spirit_id = spirit_id.to_owned();
        let list = ListEventsRequest {
            spirit_id: spirit_id.clone(),
            page_size: 200,
            ..ListEventsRequest::default()
        };
        let replay = StreamSessionEventsRequest {
            spirit_id: spirit_id.clone(),
            session_id: "s".to_owned(),
            ..StreamSessionEventsRequest::default()
        };
        let watch = WatchEventsRequest {
            spirit_id,
            ..WatchEventsRequest::default()
        };
        Self {
            list: framed(&list.encode_to_vec()),
            replay: framed(&replay.encode_to_vec()),
            watch: framed(&watch.encode_to_vec()),
        }
    }
}

/// Opens lists and replays over connections whose windows are closed, and returns the calls.
async fn stalled_readers(host: &Host, messages: &Messages) -> Vec<(Raw, client::ResponseFuture)> {
    let mut calls = Vec::new();
    for connection in 0..STALLED_CONNECTIONS {
        let mut builder = client::Builder::new();
        builder.initial_window_size(connection % 2);
        let raw = Raw::connect_with(host.addr(), &builder).await;
        for call in 0..STALLED_CALLS {
            let (path, body) = match call % 2 {
                0 => (LIST_EVENTS, &messages.list),
                _ => (STREAM, &messages.replay),
            };
            let call = raw.open(Method::POST, path, &HEADERS, body.clone()).await;
            calls.push((raw.clone(), call.unwrap()));
        }
    }
    calls
}

/// Makes calls that are cancelled after up to 3 ms.
async fn cancel_calls(host: &Host, messages: &Messages) {
    let mut raw = Raw::connect(host.addr()).await;
    for call in 0..CANCELLED_CALLS {
        let (path, body) = match call % 3 {
            0 => (LIST_EVENTS, &messages.list),
            1 => (STREAM, &messages.replay),
            _ => (WATCH, &messages.watch),
        };
        match raw.open(Method::POST, path, &HEADERS, body.clone()).await {
            Ok(reply) => drop(timeout(Duration::from_millis(call % 4), reply).await),
            // The server may close a connection that cancels calls faster than they are processed.
            Err(_) => raw = Raw::connect(host.addr()).await,
        }
    }
}

/// Opens watches, stores events, and closes the watches.
async fn come_and_go(host: &Host, messages: &Messages, spirit_id: &str) {
    let mut watchers = JoinSet::new();
    for _ in 0..WATCHERS {
        let raw = Raw::connect(host.addr()).await;
        let reply = raw
            .open(Method::POST, WATCH, &HEADERS, messages.watch.clone())
            .await;
        watchers.spawn(async move {
            let _connection = raw;
            let mut body = reply.unwrap().await.unwrap().into_body();
            while let Some(Ok(data)) = body.data().await {
                body.flow_control().release_capacity(data.len()).unwrap();
            }
        });
    }
    let mut events = host.server.events().await;
    for _ in 0..CREATES {
        let mut create = event(spirit_id);
        create.content = Some("x".repeat(CONTENT_BYTES));
        events.create_event(create).await.unwrap();
    }
}

fn median(values: &[usize]) -> usize {
    let mut values = values.to_vec();
    values.sort_unstable();
    values[values.len() / 2]
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_flat_under_mixed_load_and_returned_after_it() {
    let host = Host::start(&[]).await;
    let spirit_id = host.server.spirit("Ada").await;
    let messages = Messages::new(&spirit_id);
    let idle = host.resident();
    let mut resident = Vec::new();
    let started = Instant::now();
    while started.elapsed() < duration() || resident.len() < 8 {
        let stalled = stalled_readers(&host, &messages).await;
        tokio::join!(
            cancel_calls(&host, &messages),
            come_and_go(&host, &messages, &spirit_id)
        );
        drop(stalled);
        resident.push(host.resident());
    }
    let quarter = resident.len() / 4;
    let early = median(&resident[quarter..2 * quarter]);
    let late = median(&resident[3 * quarter..]);
    println!(
        "{} rounds: {} MiB, then {} MiB",
        resident.len(),
        early / MIB,
        late / MIB
    );
    assert!(late < early + GROWTH_MAX, "{resident:?}");

    eventually("memory is returned", async || {
        (host.resident() < 2 * idle).then_some(())
    })
    .await;
    let stored: (i64, i64) = sqlx::query_as("select count(*), max(sequence) from events")
        .fetch_one(&mut host.test_dir.connect().await)
        .await
        .unwrap();
    let created = i64::try_from(CREATES * resident.len()).unwrap();
    assert_eq!(stored, (created, created), "every event is stored once");
    host.server.stop().await;
}
