//! `bench`: a short run of every workload.

use serde_json::{Value, json};

use crate::harness::{Ended, Place, Server, finish};

/// Arguments for a run of half a second.
const TINY: [&str; 20] = [
    "--duration",
    "0.5",
    "--warmup",
    "0.1",
    "--concurrency",
    "16",
    "--connections",
    "2",
    "--streams",
    "2",
    "--spirits",
    "2",
    "--events",
    "20",
    "--batch-items",
    "5",
    "--watchers",
    "6",
    "--rate",
    "40",
];

async fn bench(place: &Place, server: &Server, arguments: &[&str]) -> Ended {
    let ended = server
        .command(place, &[&["bench"], arguments, &TINY].concat())
        .await;
    assert_eq!(ended.stderr, "");
    ended.with(0)
}

fn number(report: &Value, field: &str) -> f64 {
    report[field]
        .as_f64()
        .unwrap_or_else(|| panic!("{field} in {report}"))
}

#[tokio::test]
async fn every_bench_workload_reports_calls_events_rate_and_latency() {
    let place = Place::new();
    let server = Server::start(&place).await;
    for (arguments, events_per_call) in [
        (&["create"][..], Some(1.0)),
        (&["batch"], Some(5.0)),
        (&["create", "--idle-watchers", "3"], Some(1.0)),
        (&["ingest"], Some(1.0)),
        (&["get"], Some(1.0)),
        (&["list", "--page-size", "5"], Some(5.0)),
        (&["list", "--page-size", "4", "--page-depth", "4"], Some(4.0)),
        (&["replay"], Some(20.0)),
        (&["mixed"], None),
        // Six watchers of two spirits: each event is delivered three times.
        (&["watch"], Some(1.0 / 3.0)),
    ] {
        let ended = bench(&place, &server, &[arguments, &["--json"]].concat()).await;
        let report: Value = serde_json::from_str(&ended.stdout).unwrap();
        let (calls, events) = (number(&report, "calls"), number(&report, "events"));
        assert!(calls > 0.0, "{report}");
        assert_eq!(report["errors"], json!({}));
        assert_eq!(report["workload"], arguments[0]);
        if let Some(events_per_call) = events_per_call {
            assert!((events - calls * events_per_call).abs() < 0.5, "{report}");
        }
        let rate = number(&report, "calls_per_second");
        assert!((rate - calls / 0.5).abs() < 0.01, "{report}");
        let latency = ["p50", "p90", "p99", "max"].map(|name| number(&report["latency_ms"], name));
        assert!(latency[0] > 0.0 && latency.is_sorted(), "{report}");
    }
    server.stop().await;
}

#[tokio::test]
async fn bench_watch_creates_events_at_the_given_rate() {
    let place = Place::new();
    let server = Server::start(&place).await;
    let ended = bench(&place, &server, &["watch", "--json"]).await;
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    let events = number(&report, "events");
    // 40 a second make 25 at most in 0.6 seconds; on a busy machine some are answered too late to count.
    assert!((10.0..=25.0).contains(&events), "{report}");
    assert_eq!(report["concurrency"], json!(6));
    server.stop().await;
}

#[tokio::test]
async fn bench_prints_readable_text_and_exits_with_code_1_on_errors() {
    let place = Place::new();
    let server = Server::start(&place).await;
    let ended = bench(&place, &server, &["create"]).await;
    for word in [
        "create, 16 in flight, 0.5 s: ",
        " calls/s",
        "p50 ",
        "p99 ",
        "max ",
    ] {
        assert!(ended.stdout.contains(word), "{word} in {ended:?}");
    }
    let ended = bench(&place, &server, &["watch"]).await;
    assert!(ended.stdout.contains("watch, 6 watchers, "), "{ended:?}");
    let refused = ["bench", "list", "--page-size", "201"];
    let ended = server
        .command(&place, &[&refused[..], &TINY].concat())
        .await
        .with(1);
    assert!(ended.stdout.contains("errors  InvalidArgument "), "{ended:?}");
    let addr = server.addr.clone();
    server.stop().await;
    let ended = finish(&mut place.command(&["bench", "get", "--addr", &addr])).await;
    ended.with(1).saying(&["no server answers at"]);
    for zero in ["--concurrency", "--rate", "--watchers"] {
        let ended = finish(&mut place.command(&["bench", "watch", zero, "0"])).await;
        ended.with(2).saying(&[zero]);
    }
}
