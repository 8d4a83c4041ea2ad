//! Tests of `bench`: a short run of every workload, and errors.

use serde_json::{Value, json};

use crate::harness::{Exited, Server, TestDir, finish};

/// Seconds of a measurement, and of those that follow it on a machine too busy to answer in so short a time.
const SECONDS: [&str; 3] = ["0.5", "4", "30"];

/// Arguments for a small load with a short warm-up.
const SMALL_LOAD: [&str; 18] = [
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

async fn bench(test_dir: &TestDir, server: &Server, arguments: &[&str], seconds: &str) -> Exited {
    let duration = ["--duration", seconds];
    let arguments = [&["bench"], arguments, &SMALL_LOAD, &duration].concat();
    server.command(test_dir, &arguments).await.exits_with(0)
}

/// Returns the report of the first measurement in which calls were answered and that printed no warning.
async fn report(test_dir: &TestDir, server: &Server, arguments: &[&str]) -> Value {
    let arguments = [arguments, &["--json"]].concat();
    let mut warnings = Vec::new();
    for seconds in SECONDS {
        let exited = bench(test_dir, server, &arguments, seconds).await;
        let report: Value = serde_json::from_str(&exited.stdout).unwrap();
        assert_eq!(report["seconds"].to_string().parse(), seconds.parse::<f64>());
        if exited.stderr.is_empty() && number(&report, "calls") > 0.0 {
            return report;
        }
        warnings.push(exited);
    }
    panic!("{warnings:?}");
}

fn number(report: &Value, field: &str) -> f64 {
    report[field]
        .as_f64()
        .unwrap_or_else(|| panic!("{field} in {report}"))
}

#[tokio::test]
async fn every_bench_workload_reports_calls_events_rate_and_latency() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    for (arguments, events_per_call) in [
        (&["create"][..], Some(1.0)),
        (&["batch"], Some(5.0)),
        (&["batch", "--batch-spirits", "1", "--partial"], Some(5.0)),
        (&["create", "--idle-watchers", "3"], Some(1.0)),
        (&["ingest"], Some(1.0)),
        (&["create", "--edits", "20"], Some(1.0)),
        (&["get"], Some(1.0)),
        (&["edit"], Some(1.0)),
        (&["list", "--page-size", "5"], Some(5.0)),
        (&["list", "--page-size", "4", "--page-depth", "4"], Some(4.0)),
        (&["replay"], Some(20.0)),
        (&["sessions", "--owner", "--days", "9"], Some(20.0)),
        (&["mixed"], None),
        // Six watchers of two spirits: each event is delivered three times.
        (&["watch"], Some(1.0 / 3.0)),
    ] {
        let report = report(&test_dir, &server, arguments).await;
        let (calls, events) = (number(&report, "calls"), number(&report, "events"));
        assert_eq!(report["errors"], json!({}));
        assert_eq!(report["workload"], arguments[0]);
        if let Some(events_per_call) = events_per_call {
            assert!((events - calls * events_per_call).abs() < 0.5, "{report}");
        }
        let rate = number(&report, "calls_per_second");
        assert!(
            (rate - calls / number(&report, "seconds")).abs() < 0.01,
            "{report}"
        );
        let latency = ["p50", "p90", "p99", "max"].map(|name| number(&report["latency_ms"], name));
        assert!(latency[0] > 0.0 && latency.is_sorted(), "{report}");
    }
    server.stop().await;
}

#[tokio::test]
async fn bench_watch_creates_events_at_the_given_rate() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let exited = bench(&test_dir, &server, &["watch", "--json"], "2").await;
    assert_eq!(exited.stderr, "");
    let report: Value = serde_json::from_str(&exited.stdout).unwrap();
    let events = number(&report, "events");
    // At 40 a second at most 85 are created in 2.1 seconds; on a busy machine some replies arrive too late to
    // count.
    assert!((40.0..=85.0).contains(&events), "{report}");
    assert_eq!(report["concurrency"], json!(6));
    server.stop().await;
}

#[tokio::test]
async fn bench_prints_readable_text_and_exits_with_code_1_on_errors() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let exited = bench(&test_dir, &server, &["create"], "0.5").await;
    assert_eq!(exited.stderr, "");
    for word in [
        "create, 16 in flight, 0.5 s: ",
        " calls/s",
        "p50 ",
        "p99 ",
        "max ",
    ] {
        assert!(exited.stdout.contains(word), "{word} in {exited:?}");
    }
    let exited = bench(&test_dir, &server, &["watch"], "0.5").await;
    assert!(exited.stdout.contains("watch, 6 watchers, "), "{exited:?}");
    let refused = ["bench", "list", "--page-size", "201", "--duration", "0.5"];
    let exited = server
        .command(&test_dir, &[&refused[..], &SMALL_LOAD].concat())
        .await
        .exits_with(1);
    assert!(exited.stdout.contains("errors  InvalidArgument "), "{exited:?}");
    let addr = server.addr.clone();
    server.stop().await;
    let exited = finish(&mut test_dir.command(&["bench", "get", "--addr", &addr])).await;
    exited.exits_with(7).reports(&["no server answers at"]);
    for zero in ["--concurrency", "--rate", "--watchers"] {
        let exited = finish(&mut test_dir.command(&["bench", "watch", zero, "0"])).await;
        exited.exits_with(2).reports(&[zero]);
    }
}
