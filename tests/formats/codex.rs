//! Rollout files of Codex.

use elephantasm_events::formats::Format;
use serde_json::json;

use super::{assert_in_order, convert, events, lines, options, sessions, skipped};

const FILE: &str = include_str!("files/codex.jsonl");

#[test]
fn response_items_become_events_and_their_doubles_are_skipped() {
    let records = convert(Format::Codex, options(), FILE.lines());
    let events = events(&records);
    assert_eq!(
        lines(&events),
        [
            "system system - - Work in small steps.",
            "system user - - <environment_context>\n  <cwd>/srv/app</cwd>\n</environment_context>",
            "message.in user - - List the files",
            "thought assistant gpt-test - Listing first.",
            r#"tool.call assistant gpt-test call-1 {"command":["ls"]}"#,
            "tool.call assistant gpt-test call-2 *** Begin Patch",
            "tool.result tool shell call-1 README.md",
            "tool.result tool apply_patch call-2 patch failed",
            r#"tool.call assistant gpt-test ws-1 {"type":"search","query":"patch format"}"#,
            "system - - - ",
            "message.out assistant gpt-test - There is one file.",
            "context.compaction - - - The user wants a list of files.",
            "error - - - stream disconnected",
            "system - - - ",
            "system - - - ",
        ]
    );
    assert_in_order(&events);
    assert_eq!(
        skipped(&records),
        [
            "turn_context",
            "event_msg.user_message",
            "event_msg.agent_reasoning",
            "reasoning without text",
            "event_msg.token_count",
            "event_msg.agent_message",
            "compacted.replacement_history",
        ]
    );
}

#[test]
fn meta_contains_the_turn_the_model_and_the_usage() {
    let records = convert(Format::Codex, options(), FILE.lines());
    let events = events(&records);
    assert_eq!(events[4].meta["turn_id"], "turn-1");
    assert_eq!(events[4].meta["model"], "gpt-test");
    assert_eq!(
        events[2].meta["parts"][1]["image_url"],
        "https://example.com/a.png"
    );
    assert_eq!(events[7].meta["is_error"], true);
    assert_eq!(events[9].meta["usage"]["cached_input_tokens"], 8);
    assert_eq!(events[13].source("reason"), Some(&json!("interrupted")));
    let sessions = sessions(&records);
    assert_eq!(sessions[0].meta["source"]["cwd"], "/srv/app");
    assert_eq!(
        (sessions[1].session_id.as_str(), sessions[1].title.as_deref()),
        ("cx-1", Some("List files"))
    );
}

#[test]
fn a_subagent_has_a_session_of_its_own_and_a_path() {
    let lines = [
        r#"{"timestamp":"2026-04-02T10:00:00Z","type":"session_meta","payload":{"id":"cx-2","source":{"subagent":{"thread_spawn":{"parent_thread_id":"cx-1","agent_nickname":"Scout"}}}}}"#,
        r#"{"timestamp":"2026-04-02T09:00:00Z","type":"session_meta","payload":{"id":"cx-1"}}"#,
        r#"{"timestamp":"2026-04-02T10:00:01Z","type":"response_item","payload":{"type":"message","role":"assistant","content":[{"type":"output_text","text":"Found."}]}}"#,
    ];
    let records = convert(Format::Codex, options(), lines);
    let events = events(&records);
    assert_eq!(events[0].session_id.as_deref(), Some("cx-2"));
    assert_eq!(events[0].meta["agent_path"], json!(["main", "Scout"]));
    assert_eq!(skipped(&records), ["session_meta of another session"]);
}

#[test]
fn files_of_the_first_versions_have_no_payload() {
    let lines_of_file = [
        r#"{"id":"cx-0","timestamp":"2025-05-01T10:00:00Z","instructions":"Help."}"#,
        r#"{"record_type":"state"}"#,
        r#"{"type":"message","role":"user","content":[{"type":"input_text","text":"hi"}]}"#,
    ];
    let events = events(&convert(Format::Codex, options(), lines_of_file));
    assert_eq!(
        lines(&events),
        ["system system - - Help.", "message.in user - - hi"]
    );
    assert_in_order(&events);
}
