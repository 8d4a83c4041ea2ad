//! The report of faults: some in full, the others as counts; one sentence for a file that holds no events.

use serde_json::{Value, json};

use crate::harness::{Exited, Server, TestDir, finish};

use super::exact::field;
use super::{counts, line, stored};

/// The lines on stderr, except those that show the progress of an import of some seconds.
fn faults(exited: &Exited) -> Vec<&str> {
    let lines = exited.stderr.lines();
    lines.filter(|line| !line.contains(", duplicates ")).collect()
}

#[tokio::test]
async fn import_prints_twenty_faults_in_full_and_counts_the_others_by_kind() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let mut lines = vec![line("good")];
    lines.extend((0..30).map(|n| format!(r#"{{"event_typ": {n}}}"#)));
    lines.extend((0..10).map(|_| r#"{"event_type": "", "content": ""}"#.to_owned()));
    let input = lines.join("\n");
    let exited = server
        .command_with_stdin(&test_dir, &["import", "-", "--spirit", "Ada"], &input)
        .await
        .exits_with(1);
    assert!(counts(&exited).1.ends_with("bad lines 40"), "{exited:?}");
    let named = faults(&exited);
    assert_eq!(named.len(), 21, "{exited:?}");
    assert!(
        named[0].starts_with("line 2: ") && named[19].starts_with("line 21: "),
        "{named:?}"
    );
    assert_eq!(named[20], "and 20 more: 10 × bad event_type, 10 × unknown field");
    server.stop().await;
}

#[tokio::test]
async fn a_file_without_events_costs_one_sentence_and_does_not_end_the_import() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let other = test_dir.file("other.jsonl", "{\"rows\": []}\n".repeat(50_000));
    // No field of these is wrong for `import`, but the server refuses each of them.
    let refused = test_dir.file("refused.jsonl", "{\"content\": \"\"}\n".repeat(5_000));
    let (utf16, good) = (field("utf16.jsonl"), field("day1.jsonl"));
    let import = ["import", &other, &refused, &utf16, &good, "--spirit", "Ada"];
    let exited = server.command(&test_dir, &import).await.exits_with(1);
    let named = faults(&exited);
    let [other_named, refused_named, utf16_named] = named[..] else {
        panic!("{exited:?}");
    };
    assert!(
        other_named.contains("none of the first 20 lines is an event"),
        "{other_named}"
    );
    assert!(other_named.contains("unknown field `rows`"), "{other_named}");
    assert!(
        other_named.ends_with("it looks like JSON objects with the keys rows"),
        "{other_named}"
    );
    assert!(
        refused_named.contains("event_type must have 1 to 100 characters"),
        "{refused_named}"
    );
    assert!(utf16_named.contains("UTF-16"), "{utf16_named}");
    assert_eq!(
        counts(&exited).1,
        "created 2, duplicates 0 (of them different 0), bad lines 40, unreadable files 1"
    );
    server.stop().await;
}

#[tokio::test]
async fn a_file_from_which_nothing_fits_is_named_by_what_it_looks_like() {
    let test_dir = TestDir::new();
    for (content, flags, expected) in [
        (
            r#"{"resourceSpans": []}"#,
            &[][..],
            "the file looks like OpenTelemetry traces",
        ),
        ("time,role,text\n1,user,hi\n", &[], "the file looks like CSV"),
        (
            r#"{"type": "event_msg", "payload": {}}"#,
            &["--format", "jsonl"],
            "--format codex reads it",
        ),
    ] {
        let file = test_dir.file("a.jsonl", content);
        let import = [&["import", &file, "--spirit", "Ada", "--dry-run"], flags].concat();
        let exited = finish(&mut test_dir.command(&import)).await;
        exited.exits_with(1).reports(&["line 1: ", expected]);
    }
}

#[tokio::test]
async fn a_dry_run_checks_every_line_without_a_server() {
    let test_dir = TestDir::new();
    let file = test_dir.file(
        "events.jsonl",
        [
            &line("good"),
            "{",
            r#"{"event_type": "", "content": "", "importance_score": 7}"#,
            r#"{"session": {"session_id": "", "title": "t"}}"#,
        ]
        .join("\n"),
    );
    let mut command = test_dir.command(&["import", &file, "--spirit", "Ada", "--dry-run"]);
    let exited = finish(command.env("EVENTS_ADDR", "127.0.0.1:1"))
        .await
        .exits_with(1);
    assert!(
        exited.stdout.starts_with("dry run: events 1, bad lines 3;"),
        "{exited:?}"
    );
    exited.reports(&[
        "line 2: is not JSON",
        "line 3: event_type must have",
        "importance_score must",
        "line 4: session_id must have",
    ]);
}

#[tokio::test]
async fn with_json_the_summary_is_an_object_with_the_counts_of_each_file_and_the_places_of_faults() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let keyed = |content: &str| line(content).replace('}', r#", "dedupe_key": "k"}"#);
    let files = [
        test_dir.file(
            "a.jsonl",
            [&keyed("one"), "{", &keyed("other")].map(String::from).join("\n"),
        ),
        test_dir.file(
            "b.json",
            r#"{"type": "user", "sessionId": "c", "uuid": "u", "message": {"content": "hi"}}"#,
        ),
        test_dir.file("c.jsonl", "PK\u{3}\u{4}"),
    ];
    let [a, b, c] = files.each_ref().map(String::as_str);
    let import = ["import", a, b, c, "--spirit", "Ada", "--json"];
    let exited = server.command(&test_dir, &import).await.exits_with(1);
    let printed: Value = serde_json::from_str(&exited.stdout).unwrap();
    exited.reports(&["a.jsonl: line 2: is not JSON", "formats found: claude-code (1)"]);
    let spirit_id = server.spirit_id("Ada").await;
    let different = stored(&server, &spirit_id).await[0].id.clone();
    for (field, value) in [
        ("spirit_id", json!(spirit_id)),
        ("dry_run", json!(false)),
        ("is_complete", json!(false)),
        ("created", json!(2)),
        ("duplicates", json!(1)),
        ("different", json!(1)),
        ("bad_lines", json!(1)),
        ("unreadable_files", json!(1)),
        ("faults_not_listed", json!(0)),
    ] {
        assert_eq!(printed[field], value, "{field} in {printed}");
    }
    let of_file = |index: usize| {
        let file = &printed["files"][index];
        ["path", "format", "created", "different", "bad_lines", "error"].map(|field| file[field].clone())
    };
    assert_eq!(
        of_file(0),
        [
            json!(a),
            json!("jsonl"),
            json!(1),
            json!(1),
            json!(1),
            Value::Null
        ]
    );
    assert_eq!(
        of_file(1),
        [
            json!(b),
            json!("claude-code"),
            json!(1),
            json!(0),
            json!(0),
            Value::Null
        ]
    );
    assert_eq!(of_file(2)[5], json!("the file is a zip archive; unpack it first"));
    let of_fault = |index: usize| {
        ["path", "line", "kind", "event_id"].map(|field| printed["faults"][index][field].clone())
    };
    assert_eq!(of_fault(0), [json!(a), json!(2), json!("not JSON"), Value::Null]);
    assert_eq!(
        of_fault(1),
        [json!(a), json!(3), json!("different"), json!(different)]
    );
    server.stop().await;
}
