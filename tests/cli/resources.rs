//! Tests of `spirit`, `event` and `access`, of exit codes, and of `completions`.

use serde_json::{Value, json};

use crate::harness::{Exited, Server, TestDir, finish};

/// A server, and commands that run against it.
struct Shell {
    test_dir: TestDir,
    server: Server,
}

impl Shell {
    async fn new() -> Self {
        let test_dir = TestDir::new();
        let server = Server::start(&test_dir).await;
        Self { test_dir, server }
    }

    async fn run(&self, arguments: &[&str]) -> Exited {
        self.server.command(&self.test_dir, arguments).await
    }

    /// Runs a command with `--json` and returns what it prints.
    async fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let exited = self.run(&[arguments, &["--json"]].concat()).await.exits_with(0);
        let lines = exited.stdout.lines();
        lines.map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Like [`json`](Self::json), for a command that prints one object.
    async fn object(&self, arguments: &[&str]) -> Value {
        let objects = self.json(arguments).await;
        assert_eq!(objects.len(), 1, "{arguments:?}");
        objects.into_iter().next().unwrap()
    }
}

#[tokio::test]
async fn a_spirit_is_created_changed_deleted_and_restored_by_name_or_id() {
    let shell = Shell::new().await;
    let created = shell
        .object(&[
            "spirit",
            "create",
            "Ada",
            "--description",
            "a poet",
            "--meta",
            r#"{"n": 1}"#,
        ])
        .await;
    let id = created["id"].as_str().unwrap();
    assert_eq!(shell.object(&["spirit", "get", "Ada"]).await, created);
    let update = [
        "spirit",
        "update",
        "Ada",
        "--description",
        "",
        "--merge-meta",
        r#"{"m": 2}"#,
    ];
    let updated = shell.object(&update).await;
    assert_eq!(updated["description"], Value::Null);
    assert_eq!(updated["meta"], json!({"m": 2, "n": 1}));

    let deleted = shell.object(&["spirit", "delete", "Ada"]).await;
    assert_eq!(deleted["is_deleted"], json!(true));
    assert_eq!(shell.json(&["spirit", "list"]).await, [] as [Value; 0]);
    let counted = shell.run(&["spirit", "count", "--include-deleted"]).await;
    assert_eq!(counted.exits_with(0).stdout, "1\n");
    let restored = shell.object(&["spirit", "restore", id]).await;
    assert_eq!(
        (&restored["is_deleted"], &restored["revision"]),
        (&json!(false), &json!(4))
    );
    let table = shell
        .run(&["spirit", "list", "--name", "aDA"])
        .await
        .exits_with(0)
        .stdout;
    let lines: Vec<&str> = table.lines().collect();
    assert!(
        lines[0].starts_with("ID ") && lines[1].starts_with(id) && lines[1].ends_with("0  Ada"),
        "{table}"
    );
    shell.server.stop().await;
}

#[tokio::test]
async fn an_event_is_created_changed_deleted_and_restored_alone_and_with_others() {
    let shell = Shell::new().await;
    shell.object(&["spirit", "create", "Ada"]).await;
    let ada = ["--spirit", "Ada"];
    let create = |content: &'static str| {
        [
            "event",
            "create",
            content,
            "--spirit",
            "Ada",
            "--type",
            "note",
            "--session",
            "s",
        ]
    };
    let first = shell.object(&create("one")).await;
    shell.object(&create("-two")).await;
    let id = first["id"].as_str().unwrap();
    assert_eq!(
        (&first["outcome"], &first["sequence"]),
        (&json!("created"), &json!(1))
    );

    let update = [
        "event",
        "update",
        id,
        "--summary",
        "s",
        "--importance",
        "0.5",
        "--role",
        "user",
    ];
    shell.object(&update).await;
    let update = [
        "event",
        "update",
        id,
        "--importance",
        "none",
        "--role",
        "",
        "--expected-revision",
        "2",
    ];
    let updated = shell.object(&update).await;
    assert_eq!(
        (
            &updated["meta_summary"],
            &updated["importance_score"],
            &updated["role"]
        ),
        (&json!("s"), &Value::Null, &Value::Null)
    );
    assert_eq!(
        shell.object(&["event", "get", id, "--spirit", "Ada"]).await,
        updated
    );
    let listed = shell
        .json(&[&["event", "list", "--limit", "1"][..], &ada].concat())
        .await;
    assert_eq!(listed[0]["content"], "-two");

    let count = async || shell.object(&[&["event", "count"][..], &ada].concat()).await["count"].clone();
    shell.json(&["event", "delete", id]).await;
    assert_eq!(count().await, json!(1));
    let selected = shell
        .object(&[&["event", "delete", "--type", "note"][..], &ada].concat())
        .await;
    assert_eq!((&selected["deleted_count"], count().await), (&json!(1), json!(0)));
    let deleted_at = selected["deleted_at"].as_str().unwrap();
    shell
        .object(&[&["event", "restore", "--deleted-at", deleted_at][..], &ada].concat())
        .await;
    shell.json(&["event", "restore", id]).await;
    assert_eq!(count().await, json!(2));
    shell.server.stop().await;
}

#[tokio::test]
async fn a_batch_is_stored_as_a_whole_or_in_part_and_names_what_is_refused() {
    let shell = Shell::new().await;
    shell.object(&["spirit", "create", "Ada"]).await;
    let good = r#"{"event_type": "a", "content": "", "dedupe_key": "k"}"#;
    let bad = r#"{"eventType": "a"}"#;
    let file = shell.test_dir.file("batch.jsonl", format!("{good}\n\n{bad}\n"));
    let batch = ["event", "batch", &file, "--spirit", "Ada"];
    let refused = shell.run(&batch).await.exits_with(3);
    refused.reports(&["requests[1].content", "reason: INVALID_FIELD"]);
    let part = shell
        .run(&[&batch[..], &["--partial", "--json"]].concat())
        .await
        .exits_with(3);
    let results: Vec<Value> = part
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        (&results[0]["outcome"], &results[1]["outcome"]),
        (&json!("created"), &json!("refused"))
    );
    assert!(
        results[1]["error"].as_str().unwrap().contains("content"),
        "{results:?}"
    );
    let again = shell
        .run(&[&batch[..], &["--partial", "--return-existing"]].concat())
        .await;
    assert!(again.exits_with(3).stdout.contains("  duplicate  "));
    let unknown = shell.test_dir.file("unknown.jsonl", r#"{"event_typ": "a"}"#);
    let exited = shell.run(&["event", "batch", &unknown, "--spirit", "Ada"]).await;
    exited
        .exits_with(3)
        .reports(&["line 1: event_typ is not a field"]);
    shell.server.stop().await;
}

#[tokio::test]
async fn each_kind_of_failure_has_its_exit_code_and_shows_its_details() {
    let shell = Shell::new().await;
    for name in ["Ada", "Twin", "Twin"] {
        shell.object(&["spirit", "create", name]).await;
    }
    let unknown = "01890a5d-ac96-774b-bcce-b302099a8057";
    let create = [
        "event",
        "create",
        "x",
        "--spirit",
        "Ada",
        "--type",
        "t",
        "--dedupe-key",
        "k",
    ];
    let first = shell.object(&create).await;
    let (id, list) = (
        first["id"].as_str().unwrap(),
        ["spirit", "list", "--addr", "127.0.0.1:1"],
    );
    for (code, arguments, words) in [
        (
            2,
            &[
                "event", "create", "x", "--spirit", "Ada", "--type", "t", "--meta", "[1]",
            ][..],
            &["--meta", "object"][..],
        ),
        (2, &["event", "update", id], &["--summary"]),
        (2, &["event", "delete", id, "--session", "s"], &["--session"]),
        (
            3,
            &["event", "get", "x"],
            &["event_id must be", "reason: INVALID_FIELD"],
        ),
        (3, &["event", "delete", "--spirit", "Ada"], &["InvalidArgument"]),
        (
            4,
            &["event", "get", unknown],
            &["reason: EVENT_NOT_FOUND", "resource: ", unknown],
        ),
        (
            4,
            &["spirit", "get", "Nobody"],
            &["no spirit is named \"Nobody\""],
        ),
        (
            4,
            &["session", "get", "s", "--spirit", "Ada"],
            &["reason: SESSION_NOT_FOUND"],
        ),
        (
            5,
            &["spirit", "get", "Twin"],
            &["several spirits are named \"Twin\""],
        ),
        (5, &create, &["existing_event_id: ", id, "different: false"]),
        (
            5,
            &["event", "delete", id, "--expected-revision", "7"],
            &["expected: 7", "actual: 1"],
        ),
        (7, &list, &["no server answers at 127.0.0.1:1"]),
    ] {
        let exited = shell.run(arguments).await;
        assert_eq!(
            (exited.code, exited.stdout.as_str()),
            (Some(code), ""),
            "{arguments:?}: {exited:?}"
        );
        exited.reports(words);
    }
    let access = shell.object(&["access"]).await;
    assert_eq!(access, json!({"role": "admin", "spirit_ids": []}));
    shell.server.stop().await;
}

#[tokio::test]
async fn completions_are_printed_for_each_shell_and_the_exit_codes_in_the_help() {
    let test_dir = TestDir::new();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let exited = finish(&mut test_dir.command(&["completions", shell]))
            .await
            .exits_with(0);
        assert!(exited.stdout.contains("healthcheck"), "{shell}");
    }
    let help = finish(&mut test_dir.command(&["--help"]))
        .await
        .exits_with(0)
        .stdout;
    let (_, codes) = help.split_once("Exit codes:\n").unwrap();
    let manual = include_str!("../../docs/cli.md");
    for (code, meaning) in codes.lines().map(|line| line.trim().split_once("  ").unwrap()) {
        assert!(
            manual.contains(&format!("| {code} | {meaning}")),
            "{code} {meaning}"
        );
    }
}
