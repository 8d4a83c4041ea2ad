//! `import --watch` follows files that grow, come, and are replaced.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::process::Stdio;

use crate::harness::{Exited, PATIENCE, Server, TestDir, eventually, signal};

use super::line;

fn append(file: &str, text: &str) {
    let mut file = OpenOptions::new().append(true).open(file).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// Waits until exactly these contents are stored, in their order.
async fn stored(test_dir: &TestDir, expected: &[&str]) {
    eventually(&format!("{expected:?} are stored"), async || {
        let sql = "select coalesce(array_agg(content order by sequence), '{}') from events";
        let connection = &mut test_dir.connect().await;
        let (contents,): (Vec<String>,) = sqlx::query_as(sql).fetch_one(connection).await.unwrap();
        (contents == expected).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_watch_imports_what_is_appended_and_new_files_once_and_survives_the_server() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let folder = test_dir.path().join("logs");
    std::fs::create_dir_all(folder.join("sub")).unwrap();
    let first = test_dir.file("logs/a.jsonl", line("one") + "\n");
    let watch = ["import", "--watch", folder.to_str().unwrap(), "--spirit", "Ada"];
    let child = server.spawn(&test_dir, &watch, Stdio::null());
    stored(&test_dir, &["one"]).await;

    let (half, rest) = (line("two"), line("three"));
    let (begin, end) = half.split_at(20);
    append(&first, begin);
    test_dir.file("logs/sub/b.jsonl", line("new file") + "\n");
    stored(&test_dir, &["one", "new file"]).await;
    append(&first, &format!("{end}\n{rest}\n"));
    stored(&test_dir, &["one", "new file", "two", "three"]).await;

    let addr = server.addr.clone();
    server.kill().await;
    std::fs::write(&first, line("after rotation") + "\n").unwrap();
    let server = Server::run(&test_dir, test_dir.command(&[]).env("EVENTS_LISTEN_ADDR", addr)).await;
    stored(&test_dir, &["one", "new file", "two", "three", "after rotation"]).await;

    signal(child.id().unwrap(), "TERM").await;
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
    let exited = Exited::from(output.unwrap().unwrap())
        .exits_with(0)
        .reports(&["a.jsonl: truncated or replaced"]);
    assert!(
        exited
            .stdout
            .contains("created 5, duplicates 0 (of them different 0), bad lines 0"),
        "{exited:?}"
    );
    server.stop().await;
}
