//! Tests of `import`: counts, bad lines, spirits by name or id. The other files cover one promise each.

mod exact;
mod faults;
mod memory;
mod resume;
mod sources;
mod watch;

use elephantasm_events::grpc::pb::spirit_service_client::SpiritServiceClient;
use elephantasm_events::grpc::pb::{Event, ListEventsRequest, SoftDeleteSpiritRequest};

use crate::harness::{Exited, Server, TestDir};

/// A valid line with this content, in the session `s`.
fn line(content: &str) -> String {
    format!(r#"{{"event_type": "message.in", "session_id": "s", "content": "{content}"}}"#)
}

/// The spirit id and the counts in the output of an import.
fn counts(exited: &Exited) -> (&str, &str) {
    let summary = exited.stdout.strip_prefix("spirit ").unwrap();
    let (spirit_id, counts) = summary.split_once(": ").unwrap();
    (spirit_id, counts.split_once(';').unwrap().0)
}

/// The events of a spirit, 200 at most, in sequence order.
async fn stored(server: &Server, spirit_id: &str) -> Vec<Event> {
    let request = ListEventsRequest {
        spirit_id: spirit_id.to_owned(),
        page_size: 200,
        ..ListEventsRequest::default()
    };
    let mut events = server
        .events()
        .await
        .list_events(request)
        .await
        .unwrap()
        .into_inner()
        .events;
    events.sort_by_key(|event| event.sequence);
    events
}

fn contents(events: &[Event]) -> Vec<&str> {
    events.iter().map(Event::content).collect()
}

#[tokio::test]
async fn importing_a_file_twice_stores_its_events_once_in_file_order() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    // More lines than one request holds, with duplicate contents and descending times.
    let text: String = (0..1_200)
        .map(|n| {
            let time = 2_000 - n;
            format!(
                r#"{{"event_type": "tick", "content": "{}", "session_id": "s", "occurred_at": "2026-01-01T00:{:02}:{:02}Z"}}"#,
                n / 2, time / 60, time % 60
            ) + "\n"
        })
        .collect();
    let file = test_dir.file("events.jsonl", text);
    let first = server
        .command(&test_dir, &["import", &file, "--spirit", "Ada"])
        .await
        .exits_with(0);
    let (spirit_id, counted) = counts(&first);
    assert_eq!(
        counted,
        "created 1200, duplicates 0 (of them different 0), bad lines 0"
    );
    let second = server
        .command(&test_dir, &["import", &file, "--spirit", "Ada"])
        .await
        .exits_with(0);
    assert_eq!(
        counts(&second),
        (
            spirit_id,
            "created 0, duplicates 1200 (of them different 0), bad lines 0"
        )
    );

    let rows: Vec<(i64, String)> = sqlx::query_as("select sequence, content from events order by sequence")
        .fetch_all(&mut test_dir.connect().await)
        .await
        .unwrap();
    let expected: Vec<(i64, String)> = (0..1_200).map(|n| (n + 1, (n / 2).to_string())).collect();
    assert_eq!(rows, expected);
    server.stop().await;
}

#[tokio::test]
async fn import_reports_bad_lines_by_number_and_skips_them() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let too_large = line(&"x".repeat(5 * 1024 * 1024));
    let over_the_bound = line(&"x".repeat(1024 * 1024 + 1));
    let lines = [
        &line("good 1"),
        "{",
        "",
        r#"{"event_type": "", "content": null, "importance_score": 7}"#,
        "   ",
        r#"{"event_typ": "message.in", "content": ""}"#,
        &too_large,
        &over_the_bound,
        r#"["an array"]"#,
        r#"{"event_type": "a", "content": "", "occurred_at": "yesterday"}"#,
        r#"{"event_type": "a", "content": "", "spirit_id": "another"}"#,
        &line("good 2"),
    ];
    let file = test_dir.file(
        "events.jsonl",
        [lines.join("\n").as_bytes(), b"\n\xff\xfe\n"].concat(),
    );
    let exited = server
        .command(&test_dir, &["import", &file, "--spirit", "Ada"])
        .await
        .exits_with(1);
    let exited = exited.reports(&[
        "line 2: ",
        "line 4: ",
        "event_type must have 1 to 100 characters",
        "importance_score must be",
        "line 6: unknown field `event_typ`",
        "line 7: ",
        "line 8: content must have at most 1048576 bytes",
        "line 9: ",
        "line 10: occurred_at must be a time",
        "line 11: spirit_id",
        "line 13: is not valid UTF-8",
    ]);
    let (spirit_id, counted) = counts(&exited);
    assert_eq!(
        counted,
        "created 2, duplicates 0 (of them different 0), bad lines 9"
    );
    assert!(
        !exited.stderr.contains("requests["),
        "a request's field path leaks into the output: {exited:?}"
    );
    assert_eq!(contents(&stored(&server, spirit_id).await), ["good 1", "good 2"]);
    server.stop().await;
}

#[tokio::test]
async fn import_stores_every_field_and_treats_null_as_absent() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let full = r#"{"event_type": "tool.result", "content": "", "meta_summary": "m", "occurred_at": "2026-05-02T10:00:04.25+02:00",
        "session_id": "s", "role": "tool", "author": "sensor", "meta": {"n": 1, "f": 0.5, "none": null}, "source_uri": "u",
        "dedupe_key": "k", "importance_score": 1, "on_duplicate": "ON_DUPLICATE_REJECT", "expected_last_sequence": 0,
        "expected_session_last_sequence": 0}"#
        .replace('\n', " ");
    let nulls = r#"{"event_type": "a", "content": "c", "spirit_id": null, "meta_summary": null, "occurred_at": null,
        "session_id": null, "role": null, "author": null, "meta": null, "source_uri": null, "dedupe_key": null,
        "importance_score": null, "on_duplicate": null, "expected_last_sequence": null,
        "expected_session_last_sequence": null}"#
        .replace('\n', " ");
    let input = format!("{full}\n{nulls}");
    let exited = server
        .command_with_stdin(&test_dir, &["import", "-", "--spirit", "Ada"], &input)
        .await
        .exits_with(0);
    let events = stored(&server, counts(&exited).0).await;
    let [full, nulls] = events.try_into().unwrap();
    assert_eq!(full.occurred_at.unwrap().seconds, 1_777_708_804);
    assert_eq!(full.occurred_at.unwrap().nanos, 250_000_000);
    assert_eq!((full.content.as_deref(), full.meta_summary()), (Some(""), "m"));
    assert_eq!(
        (full.role(), full.author(), full.session_id()),
        ("tool", "sensor", "s")
    );
    assert_eq!(
        (full.source_uri(), full.dedupe_key(), full.importance_score()),
        ("u", "k", 1.0)
    );
    assert_eq!(full.meta.unwrap().fields.len(), 3);
    assert_eq!(
        (nulls.role, nulls.session_id, nulls.source_uri),
        (None, None, None)
    );
    assert_eq!((nulls.meta_summary, nulls.importance_score), (None, None));
    server.stop().await;
}

#[tokio::test]
async fn import_accepts_unix_and_windows_line_endings_and_skips_blank_lines() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let unix = format!("{}\n{}\n{}\n", line("a"), line("b"), line("a"));
    let other = format!("\r\n{}\r\n\r\n{}\r\n \t{}", line("a"), line("b"), line("a"));
    let import = ["import", "-", "--spirit", "Ada"];
    let first = server
        .command_with_stdin(&test_dir, &import, &unix)
        .await
        .exits_with(0);
    let second = server
        .command_with_stdin(&test_dir, &import, &other)
        .await
        .exits_with(0);
    assert!(
        counts(&first).1.starts_with("created 3, duplicates 0"),
        "{first:?}"
    );
    assert!(
        counts(&second).1.starts_with("created 0, duplicates 3"),
        "{second:?}"
    );
    assert_eq!(
        contents(&stored(&server, counts(&first).0).await),
        ["a", "b", "a"]
    );
    let nothing = server
        .command_with_stdin(&test_dir, &import, "")
        .await
        .exits_with(0);
    assert!(
        counts(&nothing).1.starts_with("created 0, duplicates 0"),
        "{nothing:?}"
    );
    server.stop().await;
}

#[tokio::test]
async fn import_names_each_line_whose_dedupe_key_is_taken_by_another_event() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let keyed =
        |content: &str| format!(r#"{{"event_type": "a", "content": "{content}", "dedupe_key": "k"}}"#);
    let strict = keyed("strict").replace('}', r#", "on_duplicate": "ON_DUPLICATE_REJECT"}"#);
    let repeated = strict.replace("strict", "one");
    let input = [keyed("one"), keyed("one"), keyed("other"), strict, repeated].join("\n");
    let exited = server
        .command_with_stdin(&test_dir, &["import", "-", "--spirit", "Ada"], &input)
        .await
        .exits_with(1);
    assert_eq!(
        counts(&exited).1,
        "created 1, duplicates 4 (of them different 2), bad lines 0"
    );
    let id = &stored(&server, counts(&exited).0).await[0].id;
    let named = |number| format!("line {number}: not stored: its dedupe key \"k\" is taken by event {id}");
    exited.reports(&[&named(3), &named(4)]);
    server.stop().await;
}

#[tokio::test]
async fn import_finds_a_spirit_by_its_exact_name_or_its_id() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    server.spirit("ada").await;
    server.spirit("Ada Lovelace").await;
    let import = async |spirit: &str| {
        server
            .command_with_stdin(&test_dir, &["import", "-", "--spirit", spirit], &line("a"))
            .await
    };
    let first = import("Ada").await.exits_with(0);
    let (ada, _) = counts(&first);
    assert!(
        counts(&first).1.starts_with("created 1"),
        "a spirit with a similar name was used: {first:?}"
    );
    for same in ["Ada", ada, &ada.to_uppercase()] {
        let exited = import(same).await.exits_with(0);
        assert!(
            counts(&exited).1.starts_with("created 0, duplicates 1"),
            "{same}: {exited:?}"
        );
    }
    let unknown = "01890a5d-ac96-774b-bcce-b302099a8057";
    import(unknown)
        .await
        .exits_with(4)
        .reports(&["NotFound", unknown]);

    let twin = server.spirit("Ada").await;
    import("Ada")
        .await
        .exits_with(5)
        .reports(&["several spirits are named \"Ada\"", ada, &twin]);
    let deletion = SoftDeleteSpiritRequest {
        spirit_id: twin.clone(),
        ..SoftDeleteSpiritRequest::default()
    };
    let mut spirits = SpiritServiceClient::new(server.channel().await);
    spirits.soft_delete_spirit(deletion).await.unwrap();
    assert_eq!(
        counts(&import("Ada").await.exits_with(0)).0,
        ada,
        "a deleted spirit does not count as a namesake"
    );
    import(&twin).await.exits_with(4).reports(&["NotFound", &twin]);
    server.stop().await;
}

#[tokio::test]
async fn import_of_a_missing_file_or_an_empty_folder_creates_no_spirit() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let missing = test_dir.path().join("missing.jsonl");
    let missing = missing.to_str().unwrap();
    let exited = server
        .command(&test_dir, &["import", missing, "--spirit", "Ada"])
        .await;
    exited.exits_with(1).reports(&["cannot open", missing]);
    let folder = test_dir.path().join("empty");
    std::fs::create_dir(&folder).unwrap();
    let folder = folder.to_str().unwrap();
    server
        .command(&test_dir, &["import", folder, "--spirit", "Ada"])
        .await
        .exits_with(2)
        .reports(&[folder, "holds no file whose name ends in .jsonl"]);
    let (spirits,): (i64,) = sqlx::query_as("select count(*) from spirits")
        .fetch_one(&mut test_dir.connect().await)
        .await
        .unwrap();
    assert_eq!(spirits, 0);
    server.stop().await;
}

#[tokio::test]
async fn import_names_a_line_that_exceeds_the_servers_message_limit_and_stores_the_others() {
    let test_dir = TestDir::new();
    let limits = [
        "--max-message-bytes",
        "4096",
        "--max-content-bytes",
        "4000",
        "--max-meta-bytes",
        "2000",
    ];
    let server = Server::run(
        &test_dir,
        &mut test_dir.command(&[&["serve"][..], &limits[..]].concat()),
    )
    .await;
    let good: Vec<String> = (0..40)
        .map(|n| line(&format!("{n} {}", "x".repeat(500))))
        .collect();
    let too_large = line(&"x".repeat(5_000));
    let text = [&good[..20], &[too_large], &good[20..]].concat().join("\n");
    let file = test_dir.file("events.jsonl", text);
    let exited = server
        .command(&test_dir, &["import", &file, "--spirit", "Ada"])
        .await
        .exits_with(1)
        .reports(&["line 21: the message is larger than 4096 bytes"]);
    let (spirit_id, counted) = counts(&exited);
    assert_eq!(
        counted,
        "created 40, duplicates 0 (of them different 0), bad lines 1"
    );
    let numbers: Vec<String> = contents(&stored(&server, spirit_id).await)
        .into_iter()
        .filter_map(|content| Some(content.split_once(' ')?.0.to_owned()))
        .collect();
    assert!(
        numbers.into_iter().eq((0..40).map(|n| n.to_string())),
        "in file order"
    );
}
