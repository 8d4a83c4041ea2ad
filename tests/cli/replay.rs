//! Tests of `replay`, a session as text and as JSON lines, and of `session`.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::harness::{Server, TestDir, finish};

const GARDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/garden.jsonl");

/// A server with the example conversation of the spirit Fern.
async fn garden(test_dir: &TestDir) -> Server {
    let server = Server::start(test_dir).await;
    server
        .command(test_dir, &["import", GARDEN, "--spirit", "Fern"])
        .await
        .exits_with(0);
    server
}

#[tokio::test]
async fn replay_json_prints_the_session_in_the_order_of_the_imported_file() {
    let test_dir = TestDir::new();
    let server = garden(&test_dir).await;
    let replay = ["replay", "--spirit", "Fern", "--session", "tomatoes", "--json"];
    let exited = server.command(&test_dir, &replay).await.exits_with(0);
    let replayed: Vec<Value> = exited
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let file = std::fs::read_to_string(GARDEN).unwrap();
    let lines: Vec<Value> = file
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|line: &Value| line["session_id"] == "tomatoes")
        .collect();
    assert_eq!(replayed.len(), lines.len());
    for (sequence, (event, line)) in (1..).zip(replayed.iter().zip(&lines)) {
        assert_eq!(event["sequence"], json!(sequence));
        for (field, value) in line.as_object().unwrap() {
            if field == "occurred_at" {
                let time = |value: &Value| value.as_str().unwrap().parse::<DateTime<Utc>>();
                assert!(event[field].as_str().unwrap().ends_with('Z'), "{event}");
                assert_eq!(time(&event[field]), time(value));
            } else {
                assert_eq!(&event[field], value, "{field} of {event}");
            }
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn replayed_json_can_be_imported_into_another_spirit_with_equal_fields() {
    let test_dir = TestDir::new();
    let server = garden(&test_dir).await;
    let replay = |spirit| ["replay", "--spirit", spirit, "--session", "tomatoes", "--json"];
    let first = server
        .command(&test_dir, &replay("Fern"))
        .await
        .exits_with(0)
        .stdout;
    let fields = [
        "event_type",
        "content",
        "occurred_at",
        "session_id",
        "role",
        "author",
        "meta",
        "dedupe_key",
    ];
    let comparable_fields = |text: &str| -> Vec<Value> {
        let events = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        events
            .map(|event| {
                fields
                    .iter()
                    .map(|field| (*field, event[*field].clone()))
                    .collect()
            })
            .collect()
    };
    let import = ["import", "-", "--spirit", "Copy"];
    server
        .command_with_stdin(&test_dir, &import, &first)
        .await
        .exits_with(0);
    let second = server
        .command(&test_dir, &replay("Copy"))
        .await
        .exits_with(0)
        .stdout;
    assert_eq!(comparable_fields(&second), comparable_fields(&first));
    server.stop().await;
}

#[tokio::test]
async fn replay_text_shows_time_sequence_type_role_session_and_content() {
    let test_dir = TestDir::new();
    let server = garden(&test_dir).await;
    let input = r#"{"event_type": "a", "content": "two\nlines \u001b[2J", "session_id": "t", "occurred_at": "2026-05-02T08:00:00.5Z"}"#;
    server
        .command_with_stdin(&test_dir, &["import", "-", "--spirit", "Fern"], input)
        .await
        .exits_with(0);
    let exited = server
        .command(&test_dir, &["replay", "--spirit", "Fern", "--session", "t"])
        .await
        .exits_with(0);
    assert_eq!(
        exited.stdout,
        "2026-05-02T08:00:00.500Z  #13  a  -  t\n    two\n    lines [2J\n"
    );
    assert_eq!(exited.stderr, "");
    let replay = ["replay", "--spirit", "Fern", "--session", "tomatoes"];
    let exited = server.command(&test_dir, &replay).await.exits_with(0);
    let expected = "2026-05-02T08:00:04.250Z  #2  message.in  user  tomatoes\n    My tomato seedlings look pale. What should I do?\n";
    assert!(exited.stdout.contains(expected), "{}", exited.stdout);
    for (no_color, is_colored) in [("", true), ("1", false)] {
        let mut command = test_dir.command(&replay);
        command
            .env("EVENTS_ADDR", &server.addr)
            .env("CLICOLOR_FORCE", "1");
        let exited = finish(command.env("NO_COLOR", no_color)).await.exits_with(0);
        let colored = exited.stdout.contains("\u{1b}[36mmessage.in\u{1b}[0m");
        assert_eq!(colored, is_colored, "{}", exited.stdout);
        assert_eq!(exited.stdout.contains('\u{1b}'), is_colored, "{}", exited.stdout);
    }
    server.stop().await;
}

#[tokio::test]
async fn replay_folds_long_content_unless_all_of_it_is_wanted() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let line = json!({"event_type": "a", "content": "x".repeat(50_000), "session_id": "s"}).to_string();
    server
        .command_with_stdin(&test_dir, &["import", "-", "--spirit", "Ada"], &line)
        .await
        .exits_with(0);
    let replay = ["replay", "--spirit", "Ada", "--session", "s"];
    let folded = server.command(&test_dir, &replay).await.exits_with(0).stdout;
    assert!(
        folded.ends_with("x\n    … 48000 more bytes; --full prints them\n"),
        "{folded}"
    );
    let full = server
        .command(&test_dir, &[&replay[..], &["--full"]].concat())
        .await;
    assert_eq!(full.exits_with(0).stdout.matches('x').count(), 50_000);
    server.stop().await;
}

#[tokio::test]
async fn replay_prints_nothing_for_an_unknown_session_and_fails_for_an_unknown_spirit() {
    let test_dir = TestDir::new();
    let server = garden(&test_dir).await;
    let replay = async |spirit: &str, session: &str| {
        server
            .command(&test_dir, &["replay", "--spirit", spirit, "--session", session])
            .await
    };
    let exited = replay("Fern", "roses").await.exits_with(0);
    assert_eq!(exited.stdout, "");
    replay("Moss", "tomatoes")
        .await
        .exits_with(4)
        .reports(&["no spirit is named \"Moss\""]);
    let unknown = "01890a5d-ac96-774b-bcce-b302099a8057";
    replay(unknown, "tomatoes")
        .await
        .exits_with(4)
        .reports(&["NotFound", unknown]);
    replay("Fern", "")
        .await
        .exits_with(3)
        .reports(&["InvalidArgument", "session_id"]);
    server.stop().await;
}

#[tokio::test]
async fn session_lists_titles_and_rewinds_sessions_and_undoes_a_rewind() {
    let test_dir = TestDir::new();
    let server = garden(&test_dir).await;
    let run = async |arguments: &[&str]| {
        let arguments: Vec<&str> = ["session"].iter().chain(arguments).copied().collect();
        let exited = server.command(&test_dir, &arguments).await.exits_with(0);
        exited.stdout
    };
    let spirit = ["--spirit", "Fern"];
    let with = |arguments: &[&'static str]| arguments.iter().copied().chain(spirit).collect::<Vec<_>>();

    let shown = run(&with(&[
        "set",
        "tomatoes",
        "--title",
        "Pale leaves",
        "--owner",
        "ann",
    ]))
    .await;
    assert!(shown.contains("\ntitle              Pale leaves\n"), "{shown}");
    let listed = run(&with(&["list", "--title", "PALE"])).await;
    assert_eq!(
        listed,
        "LAST EVENT            EVENTS  SESSION   OWNER  TITLE\n\
         2026-05-02T08:00:43Z       9  tomatoes  ann    Pale leaves\n"
    );
    let all = run(&with(&["list"])).await;
    assert!(all.lines().count() > 1, "{all}");
    let session = async || -> Value {
        serde_json::from_str(&run(&with(&["get", "tomatoes", "--json"])).await).unwrap()
    };
    let before = session().await;
    assert_eq!(
        (&before["title"], &before["owner"]),
        (&json!("Pale leaves"), &json!("ann"))
    );

    let rewound = run(&with(&["rewind", "tomatoes", "--after", "2"])).await;
    let (_, undo) = rewound.trim_end_matches(")\n").split_once("--undo ").unwrap();
    assert_eq!(session().await["event_count"], json!(2));
    let undone = ["rewind", "tomatoes", "--undo", undo];
    let restored = run(&undone.iter().copied().chain(spirit).collect::<Vec<_>>()).await;
    assert_eq!(
        restored,
        format!("restored {}\n", before["event_count"].as_i64().unwrap() - 2)
    );
    assert_eq!(session().await, before);

    let cleared = run(&with(&["set", "tomatoes", "--title", "", "--owner", ""])).await;
    assert!(
        !cleared.contains("title") && !cleared.contains("owner"),
        "{cleared}"
    );
    server.stop().await;
}

#[tokio::test]
async fn a_session_id_may_be_a_negative_number() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let input = r#"{"event_type": "a", "content": "in the group", "session_id": "-100123"}"#;
    server
        .command_with_stdin(&test_dir, &["import", "-", "--spirit", "Fern"], input)
        .await
        .exits_with(0);
    for arguments in [
        &["replay", "--spirit", "Fern", "--session", "-100123"][..],
        &["replay", "--spirit", "Fern", "--session=-100123"],
        &["session", "get", "-100123", "--spirit", "Fern"],
    ] {
        let exited = server.command(&test_dir, arguments).await.exits_with(0);
        let shown = ["in the group", "-100123"]
            .iter()
            .any(|text| exited.stdout.contains(text));
        assert!(shown, "{arguments:?}: {exited:?}");
    }
    server.stop().await;
}
