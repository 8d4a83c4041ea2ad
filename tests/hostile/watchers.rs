//! Live streams of large events whose readers take nothing.

use elephantasm_events::grpc::pb::WatchEventsRequest;
use h2::client;
use http::Method;
use prost::Message as _;
use tokio::time::{Duration, sleep};

use crate::harness::event;
use crate::support::{Host, MIB, Raw, framed};

const WATCHERS: usize = 100;
const EVENTS: usize = 6;
const EVENT_BYTES: usize = 900_000;
/// Memory of a watcher as docs/operations.md gives it: what it holds of one event, and what it holds otherwise.
const WATCHER_BYTES_MAX: usize = 4 * MIB;

#[tokio::test(flavor = "multi_thread")]
async fn slow_watchers_of_large_events_take_bounded_memory() {
    let host = Host::start(&[]).await;
    let spirit_id = host.server.spirit("Ada").await;
    let mut events = host.server.events().await;
    let before = host.resident();
    let watch = WatchEventsRequest {
        spirit_id: spirit_id.clone(),
        ..WatchEventsRequest::default()
    };
    let body = framed(&watch.encode_to_vec());
    let mut watchers = Vec::new();
    for _ in 0..WATCHERS {
        let mut builder = client::Builder::new();
        builder.initial_window_size(1_024);
        let raw = Raw::connect_with(host.addr(), &builder).await;
        let path = "/elephantasm.events.v1.EventService/WatchEvents";
        let headers = [("content-type", "application/grpc")];
        let response = raw
            .open(Method::POST, path, &headers, body.clone())
            .await
            .unwrap();
        watchers.push((response.await.unwrap(), raw));
    }
    let idle = host.resident().saturating_sub(before);
    for _ in 0..EVENTS {
        let mut create = event(&spirit_id);
        create.content = Some("x".repeat(EVENT_BYTES));
        events.create_event(create).await.unwrap();
        sleep(Duration::from_millis(200)).await;
    }
    sleep(Duration::from_secs(1)).await;
    let growth = host.resident().saturating_sub(before);
    println!(
        "a watcher: idle {} KiB, stalled {} KiB",
        idle / WATCHERS / 1024,
        growth / WATCHERS / 1024
    );
    assert!(growth / WATCHERS < WATCHER_BYTES_MAX, "{} MiB", growth / MIB);
    host.server.stop().await;
}
