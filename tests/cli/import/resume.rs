//! An import survives the server, and its repetition survives the import.

use std::process::Stdio;

use elephantasm_events::grpc::pb::CountSpiritsRequest;
use elephantasm_events::grpc::pb::spirit_service_client::SpiritServiceClient;
use tokio::io::AsyncWriteExt as _;

use crate::harness::{Exited, Server, TestDir, eventually, signal};

use super::{contents, counts, line, stored};

const LINES: i64 = 20_000;

async fn event_count(test_dir: &TestDir) -> i64 {
    let (count,) = sqlx::query_as("select count(*) from events")
        .fetch_one(&mut test_dir.connect().await)
        .await
        .unwrap();
    count
}

#[tokio::test]
async fn an_import_that_was_killed_is_completed_by_the_next_and_nothing_is_stored_twice() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let text: String = (0..LINES).map(|n| line(&(n / 2).to_string()) + "\n").collect();
    let file = test_dir.file("events.jsonl", text);
    let import = ["import", &file, "--spirit", "Ada"];
    let mut killed = test_dir
        .command(&import)
        .env("EVENTS_ADDR", &server.addr)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("some events are stored", async || {
        (event_count(&test_dir).await > 0).then_some(())
    })
    .await;
    killed.kill().await.unwrap();
    let before = event_count(&test_dir).await;
    assert!(before < LINES, "killed too late");
    server.command(&test_dir, &import).await.exits_with(0);

    let rows: Vec<(i64, String)> = sqlx::query_as("select sequence, content from events order by sequence")
        .fetch_all(&mut test_dir.connect().await)
        .await
        .unwrap();
    let expected = (0..LINES).map(|n| (n + 1, (n / 2).to_string()));
    assert!(rows.into_iter().eq(expected), "each line once, in order");
    server.stop().await;
}

#[tokio::test]
async fn an_import_continues_when_the_server_is_started_again() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let mut child = server.spawn(&test_dir, &["import", "-", "--spirit", "Ada"], Stdio::piped());
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all((line("before") + "\n").as_bytes()).await.unwrap();
    eventually("the first line is stored", async || {
        (event_count(&test_dir).await == 1).then_some(())
    })
    .await;
    let addr = server.addr.clone();
    server.kill().await;
    stdin.write_all(line("after").as_bytes()).await.unwrap();
    drop(stdin);
    let server = Server::run(&test_dir, test_dir.command(&[]).env("EVENTS_LISTEN_ADDR", addr)).await;
    let exited = Exited::from(child.wait_with_output().await.unwrap()).exits_with(0);
    assert_eq!(
        contents(&stored(&server, counts(&exited).0).await),
        ["before", "after"]
    );
    server.stop().await;
}

#[tokio::test]
async fn an_import_waits_for_a_database_that_is_away_when_it_starts() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    server.spirit("Ada").await;
    signal(test_dir.postmaster(), "KILL").await;
    let mut spirits = SpiritServiceClient::new(server.channel().await);
    eventually("the database is away", async || {
        let counted = spirits.count_spirits(CountSpiritsRequest::default()).await;
        counted.is_err().then_some(())
    })
    .await;
    let import = ["import", "-", "--spirit", "Ada"];
    let exited = server.command_with_stdin(&test_dir, &import, &line("one")).await;
    let exited = exited.exits_with(0);
    assert_eq!(contents(&stored(&server, counts(&exited).0).await), ["one"]);
    server.stop().await;
}
