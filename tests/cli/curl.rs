//! Runs the curl commands of the README and of `docs/clients.md` as printed against a real server.

use serde_json::Value;
use tokio::process::Command;

use crate::harness::{Server, TestDir, finish};

const PAGES: [&str; 2] = [
    include_str!("../../README.md"),
    include_str!("../../docs/clients.md"),
];
/// The address that the pages print.
const PRINTED_ADDR: &str = "localhost:50051";

/// The lines of `sh` blocks that begin with curl.
fn commands() -> Vec<&'static str> {
    let blocks = PAGES.iter().flat_map(|page| page.split("```sh\n").skip(1));
    let blocks = blocks.filter_map(|block| block.split("```").next());
    let lines = blocks.flat_map(str::lines);
    lines.filter(|line| line.starts_with("curl ")).collect()
}

#[tokio::test]
async fn every_curl_command_of_the_docs_works_as_printed() {
    if Command::new("curl").arg("--version").output().await.is_err() {
        eprintln!("SKIPPED: curl is not installed");
        return;
    }
    let test_dir = TestDir::new();
    let server = Server::run(&test_dir, &mut test_dir.command(&[])).await;
    let mut replies = Vec::new();
    for command in commands() {
        let command =
            command
                .replace(PRINTED_ADDR, &server.addr)
                .replacen("curl ", "curl --silent --show-error ", 1);
        let ran = finish(Command::new("sh").args(["-c", &command]))
            .await
            .exits_with(0);
        let reply: Value =
            serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
        replies.push(reply);
    }
    let [readme, created, listed, counted, refused] = &replies[..] else {
        panic!("the docs changed: adapt the expectations of this test: {replies:?}")
    };
    assert_eq!(
        (&readme["spirit"]["name"], &created["spirit"]["name"]),
        (&"Ada".into(), &"Ada".into())
    );
    assert_eq!(listed["spirits"].as_array().unwrap().len(), 2);
    assert_eq!(counted["count"], "2");
    assert_eq!(refused["code"], "invalid_argument");
    server.stop().await;
}
