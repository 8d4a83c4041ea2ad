//! Tests of `import` with transcripts of other tools. What maps to what is tested by `tests/formats`.

use elephantasm_events::grpc::pb::session_service_client::SessionServiceClient;
use elephantasm_events::grpc::pb::stream_session_events_response::Item;
use elephantasm_events::grpc::pb::{Event, GetSessionRequest, Session, StreamSessionEventsRequest};

use crate::harness::{Exited, Server, TestDir};

const CLAUDE: &str = include_str!("../formats/files/claude-code.jsonl");
const ATIF: &str = include_str!("../formats/files/atif.json");
const CHAT: &str = r#"{"id": "chat", "messages": [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    {"role": "assistant", "content": null, "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
    {"role": "tool", "tool_call_id": "c1", "content": "ok"}ADDED
]}"#;

/// Runs an import into the spirit Ada and returns the spirit's id, the counts and the whole output.
async fn import(
    server: &Server,
    test_dir: &TestDir,
    arguments: &[&str],
    code: i32,
) -> (String, String, Exited) {
    let arguments = [&["import", "--spirit", "Ada"], arguments].concat();
    let exited = server.command(test_dir, &arguments).await.exits_with(code);
    let (scope, counts) = exited.stdout.split_once(": ").unwrap();
    let spirit_id = scope.trim_start_matches("spirit ").to_owned();
    let counts = counts.split_once(';').unwrap().0.to_owned();
    (spirit_id, counts, exited)
}

/// The events of a session in replay order.
async fn replay(server: &Server, spirit_id: &str, session_id: &str) -> Vec<Event> {
    let request = StreamSessionEventsRequest {
        spirit_id: spirit_id.to_owned(),
        session_id: session_id.to_owned(),
        ..StreamSessionEventsRequest::default()
    };
    let mut stream = server
        .events()
        .await
        .stream_session_events(request)
        .await
        .unwrap()
        .into_inner();
    let mut events = Vec::new();
    while let Some(response) = stream.message().await.unwrap() {
        if let Some(Item::Event(event)) = response.item {
            events.push(event);
        }
    }
    events
}

async fn session(server: &Server, spirit_id: &str, session_id: &str) -> Session {
    let request = GetSessionRequest {
        spirit_id: spirit_id.to_owned(),
        session_id: session_id.to_owned(),
    };
    let mut sessions = SessionServiceClient::new(server.channel().await);
    sessions
        .get_session(request)
        .await
        .unwrap()
        .into_inner()
        .session
        .unwrap()
}

fn types(events: &[Event]) -> Vec<&str> {
    events.iter().map(Event::event_type).collect()
}

#[tokio::test]
async fn a_transcript_that_grows_is_imported_again_and_only_its_new_events_are_stored() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let beginning: String = CLAUDE.split_inclusive('\n').take(4).collect();
    let file = test_dir.file("session.jsonl", beginning);
    let (_, counts, exited) = import(&server, &test_dir, &[&file], 0).await;
    assert_eq!(
        counts,
        "created 5, duplicates 0 (of them different 0), bad lines 0, parts skipped 1"
    );
    exited.reports(&[
        "formats found: claude-code (1)",
        "skipped: 1 × file-history-snapshot",
    ]);

    test_dir.file("session.jsonl", CLAUDE);
    let (spirit, counts, _) = import(&server, &test_dir, &[&file, "--format", "claude-code"], 0).await;
    assert_eq!(
        counts,
        "created 9, duplicates 5 (of them different 0), bad lines 0, sessions set 2, parts skipped 3"
    );
    let events = replay(&server, &spirit, "cc-1").await;
    assert_eq!(
        types(&events)[..6],
        [
            "message.in",
            "thought",
            "message.out",
            "tool.call",
            "tool.call",
            "tool.result"
        ]
    );
    assert_eq!(events.len(), 14);
    assert_eq!(
        session(&server, &spirit, "cc-1").await.title(),
        "Rounding in the basket"
    );

    let (_, counts, exited) = import(&server, &test_dir, &[&file, "--strict"], 1).await;
    assert!(
        counts.contains("duplicates 13 ") && counts.contains("bad lines 1"),
        "{counts}"
    );
    exited.reports(&["line 17: ", "unknown type hologram"]);
    server.stop().await;
}

#[tokio::test]
async fn transcripts_without_times_are_replayed_in_their_order_and_can_be_repeated() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let file = test_dir.file("chat.json", CHAT.replace("ADDED", ""));
    for expected in [
        "created 4, duplicates 0 (of them different 0), bad lines 0, sessions set 1",
        "created 0, duplicates 4 (of them different 0), bad lines 0, sessions set 1",
    ] {
        let (_, counts, _) = import(&server, &test_dir, &[&file], 0).await;
        assert_eq!(counts, expected);
    }
    test_dir.file(
        "chat.json",
        CHAT.replace("ADDED", r#",{"role": "assistant", "content": "Done."}"#),
    );
    let (spirit, counts, _) = import(&server, &test_dir, &[&file], 0).await;
    assert_eq!(
        counts,
        "created 1, duplicates 4 (of them different 0), bad lines 0, sessions set 1"
    );
    let events = replay(&server, &spirit, "chat").await;
    assert_eq!(
        types(&events),
        ["system", "message.in", "tool.call", "tool.result", "message.out"]
    );

    let (_, _, exited) = import(&server, &test_dir, &[&file, "--format", "atif"], 1).await;
    exited.reports(&["is in another format: an ATIF trajectory has an array of steps"]);
    server.stop().await;
}

#[tokio::test]
async fn a_folder_may_hold_files_of_several_formats() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let folder = test_dir.path().join("mixed");
    std::fs::create_dir(&folder).unwrap();
    test_dir.file("mixed/a.json", ATIF);
    test_dir.file("mixed/c.jsonl", include_str!("../formats/files/codex.jsonl"));
    test_dir.file(
        "mixed/e.jsonl",
        concat!(
            r#"{"event_type": "message.in", "session_id": "s", "content": [{"type": "text", "text": "hi"}]}"#,
            "\n",
            r#"{"event_type": "tool.call", "session_id": "s", "content": null, "occurred_at": "2100-01-01T00:00:00Z"}"#,
        ),
    );
    test_dir.file("mixed/m.json", include_str!("../formats/files/anthropic.json"));
    let folder = folder.to_str().unwrap();
    let (_, dry, _) = import(&server, &test_dir, &[folder, "--dry-run"], 0).await;
    assert!(dry.starts_with("events 41, bad lines 0"), "{dry}");
    let start = ["--start-time", "2026-01-01T00:00:00Z"];
    let (spirit, counts, exited) = import(&server, &test_dir, &[&[folder], &start[..]].concat(), 0).await;
    assert!(counts.starts_with("created 41, duplicates 0"), "{counts}");
    exited.reports(&["formats found: anthropic (1), atif (1), codex (1)"]);

    let contents: Vec<_> = replay(&server, &spirit, "s")
        .await
        .into_iter()
        .map(|event| event.content)
        .collect();
    assert_eq!(contents, [Some("hi".to_owned()), Some(String::new())]);
    let said = replay(&server, &spirit, "m.json#1").await;
    assert_eq!(said[0].occurred_at.as_ref().unwrap().seconds, 1_767_225_600);
    assert_eq!(said.last().unwrap().content(), "A ball and a hat.");
    let run = session(&server, &spirit, "run-7").await;
    assert_eq!(run.event_count, Some(12));
    assert!(run.meta.unwrap().fields.contains_key("source"));
    server.stop().await;
}

#[tokio::test]
async fn sessions_are_exported_as_transcripts_that_can_be_imported_again() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let run = test_dir.file("run.json", ATIF);
    let chat = test_dir.file("chat.json", CHAT.replace("ADDED", ""));
    let (ada, _, _) = import(&server, &test_dir, &[&run, &chat], 0).await;
    let export = async |arguments: &[&str]| {
        let arguments = [&["export", "--spirit", "Ada"], arguments].concat();
        let exited = server.command(&test_dir, &arguments).await.exits_with(0);
        exited.stdout
    };
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let trajectory = json(&export(&["--session", "run-7", "--format", "atif"]).await);
    let mut expected = json(ATIF);
    expected.as_object_mut().unwrap().remove("subagent_trajectories"); // is a session of its own
    assert_eq!(trajectory, expected);

    let conversations = export(&["--format", "openai"]).await;
    let mut ids: Vec<_> = conversations
        .lines()
        .map(|line| json(line)["id"].as_str().unwrap().to_owned())
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, ["chat", "run-7", "run-7/tr-7-taster"]);
    let file = test_dir.file("again.jsonl", conversations);
    let again = ["import", &file, "--spirit", "Bob"];
    let exited = server.command(&test_dir, &again).await.exits_with(0);
    let bob = exited.stdout["spirit ".len()..].split(':').next().unwrap();
    let (before, after) = (
        replay(&server, &ada, "chat").await,
        replay(&server, bob, "chat").await,
    );
    assert_eq!(types(&after), types(&before));

    let refused = [
        "export",
        "--spirit",
        "Ada",
        "--format",
        "atif",
        "--include-deleted",
    ];
    let exited = server.command(&test_dir, &refused).await.exits_with(2);
    exited.reports(&["--include-deleted needs --format jsonl"]);
    server.stop().await;
}
