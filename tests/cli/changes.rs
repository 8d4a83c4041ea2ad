//! Tests of `history` and `changes`.

use elephantasm_events::grpc::pb::UpdateEventRequest;
use serde_json::{Value, json};

use crate::harness::{Server, TestDir, event, finish};
use crate::tail::Tail;

fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

async fn edit(server: &Server, event_id: &str, role: &str) {
    let request = UpdateEventRequest {
        event_id: event_id.to_owned(),
        role: Some(role.to_owned()),
        ..UpdateEventRequest::default()
    };
    server.events().await.update_event(request).await.unwrap();
}

#[tokio::test]
async fn history_and_changes_print_edits_and_deletions_and_start_where_they_are_told() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let spirit_id = server.spirit("Fern").await;
    let request = event(&spirit_id);
    let created = server
        .events()
        .await
        .create_event(request)
        .await
        .unwrap()
        .into_inner()
        .event
        .unwrap();
    for role in ["user", "assistant"] {
        edit(&server, &created.id, role).await;
    }
    let run = async |arguments: &[&str]| {
        let exited = server.command(&test_dir, arguments).await.exits_with(0);
        assert_eq!(exited.stderr, "");
        exited.stdout
    };

    let history = lines(&run(&["history", &created.id, "--json"]).await);
    let newest = &history[0];
    assert_eq!(
        (history.len(), &newest["change"], &newest["revision"]),
        (2, &json!(2), &json!(3))
    );
    assert_eq!(
        (&newest["kind"], &newest["fields"]),
        (&json!("updated"), &json!(["role"]))
    );
    assert_eq!(
        (&newest["previous"], &history[1]["previous"]),
        (&json!({"role": "user"}), &json!({}))
    );
    let limited = run(&["history", &created.id, "--limit", "1", "--json"]).await;
    assert_eq!(lines(&limited), history[..1]);

    let changes = lines(&run(&["changes", "--spirit", "Fern", "--json"]).await);
    assert_eq!(changes, history.iter().rev().cloned().collect::<Vec<_>>());
    assert_eq!(
        lines(&run(&["changes", "--spirit", "Fern", "--after", "1", "--json"]).await),
        changes[1..]
    );
    let text = run(&["changes", "--spirit", &spirit_id]).await;
    let expected = format!("  2  updated  {}  role\n", created.id);
    assert!(text.ends_with(&expected), "{text}");

    let beyond = server
        .command(&test_dir, &["changes", "--spirit", "Fern", "--after", "3"])
        .await;
    beyond.exits_with(3).reports(&["InvalidArgument", "after_change"]);
    finish(&mut test_dir.command(&["changes", "--spirit", "Fern", "--after", "-1"]))
        .await
        .exits_with(2);
    server.stop().await;
}

#[tokio::test]
async fn changes_follow_prints_new_changes_and_the_number_to_resume_with() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let spirit_id = server.spirit("Fern").await;
    let created = server
        .events()
        .await
        .create_event(event(&spirit_id))
        .await
        .unwrap()
        .into_inner()
        .event
        .unwrap();
    edit(&server, &created.id, "before").await;
    let mut following = Tail::run(
        &test_dir,
        &server,
        &["changes", "--spirit", "Fern", "--follow", "--json"],
    );
    for (number, role) in [(1, "between"), (2, "last"), (3, "unread")] {
        assert_eq!(following.event().await["change"], json!(number));
        edit(&server, &created.id, role).await;
    }
    assert_eq!(following.event().await["previous"], json!({"role": "last"}));
    let exited = following.interrupt().await.exits_with(0);
    assert_eq!(exited.stderr, "resume with --after 4\n");
    server.stop().await;
}
