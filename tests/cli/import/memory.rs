//! The memory of an import is bounded, however long its lines.

use crate::harness::{Exited, Server, TestDir, finish_measured};

use super::counts;

const MIB: usize = 1024 * 1024;

/// Runs an import and returns its output and the highest resident memory that was seen.
async fn import(test_dir: &TestDir, server: &Server, file: &str) -> (Exited, usize) {
    let mut command = test_dir.command(&["import", file, "--spirit", "Ada"]);
    finish_measured(command.env("EVENTS_ADDR", &server.addr)).await
}

#[tokio::test]
async fn lines_of_19_mib_are_stored_in_128_mib_of_memory() {
    let test_dir = TestDir::new();
    let limits = [
        "serve",
        "--max-message-bytes",
        "33554432",
        "--max-content-bytes",
        "20971520",
    ];
    let server = Server::run(&test_dir, &mut test_dir.command(&limits)).await;
    let line = |n: usize| {
        format!(
            "{{\"event_type\": \"a\", \"content\": \"{n}{}\"}}\n",
            "x".repeat(19 * MIB)
        )
    };
    let file = test_dir.file("events.jsonl", line(1) + &line(2));
    let (exited, peak) = import(&test_dir, &server, &file).await;
    let exited = exited.exits_with(0);
    assert!(counts(&exited).1.starts_with("created 2, "), "{exited:?}");
    assert!(peak <= 128 * MIB, "{} MiB", peak / MIB);
    server.stop().await;
}

#[tokio::test]
async fn an_endless_line_is_skipped_without_being_kept() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let good = r#"{"event_type": "a", "content": "good"}"#;
    let file = test_dir.file(
        "events.jsonl",
        format!("{good}\n{}\n{good}", "x".repeat(50 * MIB)),
    );
    let (exited, peak) = import(&test_dir, &server, &file).await;
    let exited = exited
        .exits_with(1)
        .reports(&["line 2: is longer than any event"]);
    assert!(counts(&exited).1.starts_with("created 2, "), "{exited:?}");
    assert!(peak <= 48 * MIB, "{} MiB", peak / MIB);
    server.stop().await;
}
