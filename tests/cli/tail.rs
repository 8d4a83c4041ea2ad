//! Tests of `tail`: events as they are stored, and the position to resume from.

use std::process::Stdio;

use elephantasm_events::grpc::pb::spirit_service_client::SpiritServiceClient;
use elephantasm_events::grpc::pb::{CreateEventRequest, SoftDeleteSpiritRequest};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout};
use tokio::time::timeout;

use crate::harness::{Exited, PATIENCE, Server, TestDir, event, eventually, finish, signal};

/// A running command that prints items until it is stopped.
pub struct Tail {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Tail {
    fn start(test_dir: &TestDir, server: &Server, arguments: &[&str]) -> Self {
        Self::run(test_dir, server, &[&["tail"], arguments].concat())
    }

    pub fn run(test_dir: &TestDir, server: &Server, arguments: &[&str]) -> Self {
        let mut child = server.spawn(test_dir, arguments, Stdio::null());
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    async fn line(&mut self) -> String {
        let line = timeout(PATIENCE, self.lines.next_line()).await;
        line.expect("tail prints a line in time")
            .unwrap()
            .expect("tail has not ended")
    }

    pub async fn event(&mut self) -> Value {
        serde_json::from_str(&self.line().await).unwrap()
    }

    /// The contents of the next events.
    async fn contents(&mut self, count: usize) -> Vec<String> {
        let mut contents = Vec::new();
        for _ in 0..count {
            contents.push(self.event().await["content"].as_str().unwrap().to_owned());
        }
        contents
    }

    pub async fn interrupt(self) -> Exited {
        signal(self.child.id().unwrap(), "INT").await;
        self.wait_for_exit().await
    }

    /// Waits until `tail` has exited, without further output on stdout.
    async fn wait_for_exit(mut self) -> Exited {
        let line = timeout(PATIENCE, self.lines.next_line())
            .await
            .expect("tail ends in time");
        assert_eq!(line.unwrap(), None);
        Exited::from(self.child.wait_with_output().await.unwrap())
    }
}

/// Stores events with these contents, one after another.
async fn store(server: &Server, spirit_id: &str, contents: impl IntoIterator<Item = &str>) {
    let mut events = server.events().await;
    for content in contents {
        let request = CreateEventRequest {
            content: Some(content.to_owned()),
            ..event(spirit_id)
        };
        events.create_event(request).await.unwrap();
    }
}

#[tokio::test]
async fn tail_starts_with_new_events_unless_from_beginning_is_set() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let ada = server.spirit("Ada").await;
    store(&server, &ada, ["before"]).await;
    let mut tail = Tail::start(&test_dir, &server, &["--spirit", "Ada", "--json"]);
    // The start of the watch is not observable, so events are stored until one is printed.
    let first = eventually("tail prints an event", async || {
        store(&server, &ada, ["after"]).await;
        let line = timeout(std::time::Duration::from_millis(100), tail.lines.next_line()).await;
        line.ok().map(|line| line.unwrap().unwrap())
    })
    .await;
    assert!(first.contains(r#""content":"after""#), "{first}");
    tail.child.kill().await.unwrap();

    let mut tail = Tail::start(
        &test_dir,
        &server,
        &["--spirit", &ada, "--json", "--from-beginning"],
    );
    assert_eq!(tail.contents(2).await, ["before", "after"]);
    server.stop().await;
}

#[tokio::test]
async fn tail_and_replay_print_the_same_text_and_json() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let ada = server.spirit("Ada").await;
    store(&server, &ada, ["one"]).await;
    let mut tail = Tail::start(&test_dir, &server, &["--spirit", "Ada", "--from-beginning"]);
    let mut replay = ["replay", "--spirit", "Ada", "--session", "s"].to_vec();
    let replayed = server.command(&test_dir, &replay).await.exits_with(0).stdout;
    assert_eq!(
        format!("{}\n{}\n", tail.line().await, tail.line().await),
        replayed
    );
    store(&server, &ada, ["two"]).await;
    assert!(tail.line().await.ends_with("  #2  message.in  -  s"));
    assert_eq!(tail.line().await, "    two");

    let mut json = Tail::start(&test_dir, &server, &["--spirit", "Ada", "--after", "1", "--json"]);
    replay.push("--json");
    let replayed = server.command(&test_dir, &replay).await.exits_with(0).stdout;
    assert_eq!(Some(json.line().await.as_str()), replayed.lines().nth(1));
    server.stop().await;
}

#[tokio::test]
async fn tail_of_a_session_starts_with_its_last_events_by_default() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let ada = server.spirit("Ada").await;
    let contents: Vec<String> = (1..=12).map(|n| n.to_string()).collect();
    store(&server, &ada, contents.iter().map(String::as_str)).await;
    for (start, expected) in [
        (&[][..], &contents[2..]),
        (&["--last", "3"], &contents[9..]),
        (&["--last", "100"], &contents[..]),
        (&["--from-beginning"], &contents[..]),
    ] {
        let session = ["--spirit", "Ada", "--session", "s", "--json"];
        let mut tail = Tail::start(&test_dir, &server, &[&session, start].concat());
        assert_eq!(tail.contents(expected.len()).await, expected, "{start:?}");
        store(&server, &server.spirit("Other").await, ["not of this spirit"]).await;
        let elsewhere = CreateEventRequest {
            session_id: None,
            ..event(&ada)
        };
        server.events().await.create_event(elsewhere).await.unwrap();
        let late = CreateEventRequest {
            event_type: "late".to_owned(),
            session_id: Some("s".to_owned()),
            occurred_at: Some(prost_types::Timestamp::default()),
            dedupe_key: Some(format!("{start:?}")),
            ..event(&ada)
        };
        server.events().await.create_event(late.clone()).await.unwrap();
        let followed = tail.event().await;
        assert_eq!(followed["dedupe_key"], json!(late.dedupe_key), "{start:?}");
        tail.interrupt().await.exits_with(0);
        sqlx::query("delete from events where event_type = 'late'")
            .execute(&mut test_dir.connect().await)
            .await
            .unwrap();
    }
    server.stop().await;
}

#[tokio::test]
async fn tail_resumes_after_a_printed_sequence_or_cursor() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let ada = server.spirit("Ada").await;
    store(&server, &ada, ["1", "2", "3", "4", "5"]).await;
    for (selection, position) in [
        (&["--spirit", "Ada"][..], "sequence"),
        (&["--spirit", "Ada", "--session", "s"], "cursor"),
    ] {
        let start = [selection, &["--json", "--from-beginning"]].concat();
        let mut tail = Tail::start(&test_dir, &server, &start);
        assert_eq!(tail.contents(2).await, ["1", "2"]);
        let third = tail.event().await;
        let after = match &third[position] {
            Value::String(cursor) => cursor.clone(),
            sequence => sequence.to_string(),
        };
        assert_eq!(third.get("cursor").is_some(), position == "cursor");
        let resume = [selection, &["--json", "--after", &after]].concat();
        let mut resumed = Tail::start(&test_dir, &server, &resume);
        assert_eq!(resumed.contents(2).await, ["4", "5"], "{position}");
    }
    server.stop().await;
}

#[tokio::test]
async fn tail_prints_its_resume_position_on_ctrl_c_and_on_a_closed_stdout() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    for selection in [&["--spirit", "Ada"][..], &["--spirit", "Fern", "--session", "s"]] {
        let spirit_id = server.spirit(selection[1]).await;
        store(&server, &spirit_id, ["seen"]).await;
        let mut after = String::new();
        for ctrl_c in [true, false] {
            let start = match after.as_str() {
                "" => vec!["--json", "--from-beginning"],
                after => vec!["--json", "--after", after],
            };
            let mut tail = Tail::start(&test_dir, &server, &[selection, &start].concat());
            while tail.event().await["content"] != "seen" {}
            let exited = if ctrl_c {
                tail.interrupt().await
            } else {
                let Tail { child, lines } = tail;
                drop(lines); // no event follows, so tail has to detect the closed pipe without writing
                let output = timeout(PATIENCE, child.wait_with_output()).await;
                Exited::from(output.expect("tail ends in time").unwrap())
            };
            let stderr = exited.exits_with(0).stderr;
            let position = stderr
                .strip_prefix("resume with --after ")
                .expect("a resume position");
            position.trim_end().clone_into(&mut after);
            store(&server, &spirit_id, ["missed meanwhile", "seen"]).await;
        }
        let resume = [selection, &["--json", "--after", &after]].concat();
        let mut tail = Tail::start(&test_dir, &server, &resume);
        assert_eq!(
            tail.contents(2).await,
            ["missed meanwhile", "seen"],
            "{selection:?}"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn tail_reconnects_after_a_restart_and_after_kill_9_of_the_server() {
    let test_dir = TestDir::new();
    let mut server = Server::start(&test_dir).await;
    let ada = server.spirit("Ada").await;
    store(&server, &ada, ["1"]).await;
    let start = ["--spirit", "Ada", "--json", "--from-beginning"];
    let mut tails = [
        Tail::start(&test_dir, &server, &start),
        Tail::start(&test_dir, &server, &[&start[..], &["--session", "s"]].concat()),
    ];
    for round in ["2", "3"] {
        for tail in &mut tails {
            tail.line().await;
        }
        let addr = server.addr.clone();
        if round == "2" {
            server.stop().await;
        } else {
            server.kill().await;
        }
        let mut restart = test_dir.command(&["--listen-addr", &addr]);
        server = Server::run(&test_dir, &mut restart).await;
        store(&server, &ada, [round]).await;
    }
    for mut tail in tails {
        assert_eq!(tail.contents(1).await, ["3"]);
        let exited = tail.interrupt().await.exits_with(0);
        let reconnects = exited.stderr.matches("trying to resume").count();
        assert_eq!(reconnects, 2, "one message for each lost connection: {exited:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn tail_prints_only_events_that_pass_the_filter() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let ada = server.spirit("Ada").await;
    for selection in [&["--spirit", "Ada"][..], &["--spirit", "Ada", "--session", "s"]] {
        let filter = [
            "--json",
            "--from-beginning",
            "--type",
            "a",
            "--type",
            "b",
            "--role",
            "user",
        ];
        let mut tail = Tail::start(&test_dir, &server, &[selection, &filter].concat());
        let mut seen = vec![];
        for (event_type, role) in [("a", "tool"), ("c", "user"), ("a", "user"), ("b", "user")] {
            let request = CreateEventRequest {
                event_type: event_type.to_owned(),
                role: Some(role.to_owned()),
                dedupe_key: Some(format!("{event_type} {role}")),
                on_duplicate: 2,
                ..event(&ada)
            };
            server.events().await.create_event(request).await.unwrap();
        }
        for _ in 0..2 {
            seen.push(tail.event().await["dedupe_key"].clone());
        }
        assert_eq!(seen, ["a user", "b user"]);
    }
    server.stop().await;
}

#[tokio::test]
async fn tail_exits_on_errors_that_a_retry_cannot_fix() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let ada = server.spirit("Ada").await;
    store(&server, &ada, ["1"]).await;
    for (name, code, arguments, words) in [
        (
            "unknown name",
            4,
            &["--spirit", "Moss"][..],
            &["no spirit is named \"Moss\""][..],
        ),
        (
            "a cursor of another query",
            3,
            &["--spirit", "Ada", "--session", "s", "--after", "abc"],
            &["InvalidArgument", "after_cursor"],
        ),
        (
            "a sequence beyond the last",
            3,
            &["--spirit", "Ada", "--after", "7"],
            &["InvalidArgument", "after_sequence"],
        ),
    ] {
        let exited = server.command(&test_dir, &[&["tail"], arguments].concat()).await;
        assert_eq!(exited.stdout, "", "{name}");
        exited.exits_with(code).reports(words);
    }
    let mut tail = Tail::start(
        &test_dir,
        &server,
        &["--spirit", "Ada", "--from-beginning", "--json"],
    );
    tail.event().await;
    let deletion = SoftDeleteSpiritRequest {
        spirit_id: ada.clone(),
        ..SoftDeleteSpiritRequest::default()
    };
    let mut spirits = SpiritServiceClient::new(server.channel().await);
    spirits.soft_delete_spirit(deletion).await.unwrap();
    let exited = tail.wait_for_exit().await.exits_with(4);
    exited.reports(&["NotFound", &ada, "resume with --after 1"]);
    server.stop().await;
}

#[tokio::test]
async fn tail_rejects_conflicting_flags_with_code_2() {
    for (arguments, word) in [
        (&["--after", "1", "--from-beginning"][..], "--from-beginning"),
        (&["--session", "s", "--after", "x", "--last", "1"], "--last"),
        (
            &["--session", "s", "--last", "1", "--from-beginning"],
            "--from-beginning",
        ),
        (&["--last", "1"], "--session"),
        (&["--session", "s", "--last", "0"], "--last"),
        (&["--after", "AcursorOfASession"], "--session"),
        (&["--after=-1"], "--after"),
    ] {
        let test_dir = TestDir::new();
        let tail = [&["tail", "--spirit", "Ada"], arguments].concat();
        finish(&mut test_dir.command(&tail))
            .await
            .exits_with(2)
            .reports(&[word]);
    }
}
