//! Live streams of large events whose readers take nothing.

use elephantasm_events::grpc::pb::{CreateEventRequest, WatchEventsRequest};
use h2::client;
use http::Method;
use prost::Message as _;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use tokio::time::{Duration, sleep};

use crate::harness::event;
use crate::support::{Host, MIB, Raw, framed};

const WATCHERS: usize = 100;
const CONTENT_BYTES: usize = 900_000;
/// Memory of a watcher as docs/operations.md gives it: what it holds of one large event, and what it holds otherwise.
const WATCHER_BYTES_MAX: usize = 4 * MIB;
/// Memory of a watcher whose events are small enough for its budget.
const BUDGET_BYTES_MAX: usize = MIB;

/// Creates events one after another while a hundred watchers take nothing. Returns the growth of the server's memory for
/// each watcher.
async fn growth_of_stalled_watchers(creates: impl Fn(&str) -> Vec<CreateEventRequest>) -> usize {
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
    for create in creates(&spirit_id) {
        events.create_event(create).await.unwrap();
        sleep(Duration::from_millis(50)).await;
    }
    sleep(Duration::from_secs(1)).await;
    let growth = host.resident().saturating_sub(before);
    println!(
        "a watcher: idle {} KiB, stalled {} KiB",
        idle / WATCHERS / 1024,
        growth / WATCHERS / 1024
    );
    host.server.stop().await;
    growth / WATCHERS
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_watchers_of_large_events_take_bounded_memory() {
    let growth = growth_of_stalled_watchers(|spirit_id| {
        let mut create = event(spirit_id);
        create.content = Some("x".repeat(CONTENT_BYTES));
        vec![create; 6]
    });
    let growth = growth.await;
    assert!(growth < WATCHER_BYTES_MAX, "{growth} bytes");
}

/// PostgreSQL stores 60 kB of spaces in a few hundred bytes, but the stream holds and sends them all.
#[tokio::test(flavor = "multi_thread")]
async fn slow_watchers_of_metas_that_compress_take_bounded_memory() {
    let growth = growth_of_stalled_watchers(|spirit_id| {
        let spaces = Value {
            kind: Some(Kind::StringValue(" ".repeat(60_000))),
        };
        let mut create = event(spirit_id);
        create.meta = Some(Struct {
            fields: [("spaces".to_owned(), spaces)].into(),
        });
        vec![create; 40]
    });
    let growth = growth.await;
    assert!(growth < BUDGET_BYTES_MAX, "{growth} bytes");
}
