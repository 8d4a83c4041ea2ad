//! Session files of Claude Code.

use elephantasm_events::formats::{Converter, Format, FormatError, Options};
use serde_json::json;

use super::{assert_in_order, convert, events, lines, options, sessions, skipped};

const FILE: &str = include_str!("files/claude-code.jsonl");

#[test]
fn content_blocks_become_events_in_the_order_of_the_file() {
    let events = events(&convert(Format::ClaudeCode, options(), FILE.lines()));
    assert_eq!(
        lines(&events),
        [
            "message.in user - - Why does the basket test fail?",
            "thought assistant claude-test-1 - The rounding looks wrong.",
            "message.out assistant claude-test-1 - I will run it.",
            r#"tool.call assistant claude-test-1 tool-1 {"command":"make test","ticket":9007199254740993}"#,
            r#"tool.call assistant claude-test-1 tool-2 {"prompt":"Read basket.rs"}"#,
            "tool.result tool Bash tool-1 1 failed",
            "message.in user - - Read basket.rs",
            "message.out assistant claude-test-2 - It rounds twice.",
            "tool.result tool Task tool-2 It rounds twice.",
            "system system - - Conversation compacted",
            "context.compaction user - - The basket rounds twice; the fix is to round once.",
            "system user - - Caveat: local command output follows.",
            "error assistant <synthetic> - API Error: 529 overloaded",
            "system - - - ",
        ]
    );
    assert_in_order(&events);
    assert!(
        events
            .iter()
            .all(|event| event.session_id.as_deref() == Some("cc-1"))
    );
}

#[test]
fn meta_contains_the_turn_the_agent_the_usage_and_the_rest_of_the_record() {
    let events = events(&convert(Format::ClaudeCode, options(), FILE.lines()));
    assert_eq!(events[0].source("cwd"), Some(&json!("/home/mara/shop")));
    assert_eq!(
        events[1].meta["usage"],
        json!({"input_tokens": 120, "output_tokens": 9})
    );
    assert_eq!(events[1].meta["turn_id"], "u-1");
    assert_eq!(
        events[2].meta.get("usage"),
        None,
        "the second record of the same API message"
    );
    assert_eq!(
        events[2].source("message").expect("the rest")["usage"]["output_tokens"],
        60
    );
    assert_eq!(events[5].meta["is_error"], true);
    assert_eq!(
        events[5].source("timestamp"),
        Some(&json!("2026-03-01T09:00:01.000Z")),
        "before its call"
    );
    assert_eq!(
        events[5].source("toolUseResult").expect("short")["stdout"],
        "1 failed"
    );
    assert_eq!(events[7].meta["agent_path"], json!(["main", "reader"]));
    assert_eq!(
        events[8].meta["parts"][0],
        json!({"type": "text", "text_bytes": 16})
    );
    assert_eq!(events[8].meta["parts"][1]["source"]["data"], "iVBOR");
    assert_eq!(
        events[13].source("unknown").expect("kept")["beam"],
        "a new kind of record"
    );
}

#[test]
fn a_title_of_the_user_outranks_generated_ones() {
    let records = convert(Format::ClaudeCode, options(), FILE.lines());
    let titles: Vec<_> = sessions(&records)
        .into_iter()
        .filter_map(|session| session.title)
        .collect();
    assert_eq!(titles, ["Basket rounding", "Rounding in the basket"]);
    assert_eq!(
        skipped(&records),
        ["file-history-snapshot", "title", "queue-operation"]
    );
}

#[test]
fn a_summary_before_the_first_message_is_the_title_of_the_session() {
    let first = r#"{"type":"summary","summary":"Baskets","leafUuid":"u-9"}"#;
    let records = convert(
        Format::ClaudeCode,
        options(),
        std::iter::once(first).chain(FILE.lines().take(2)),
    );
    let sessions = sessions(&records);
    assert_eq!(
        (sessions[0].session_id.as_str(), sessions[0].title.as_deref()),
        ("cc-1", Some("Baskets"))
    );
    assert_eq!(
        skipped(&convert(Format::ClaudeCode, options(), [first])),
        ["title"]
    );
}

#[test]
fn large_results_for_display_are_skipped_and_strict_conversions_refuse_unknown_records() {
    let large = format!(
        r#"{{"type":"user","uuid":"u","sessionId":"s","message":{{"content":"x"}},"toolUseResult":"{}"}}"#,
        "y".repeat(5_000)
    );
    let records = convert(Format::ClaudeCode, options(), [large.as_str()]);
    assert_eq!(skipped(&records), ["toolUseResult"]);

    let strict = Options {
        strict: true,
        ..options()
    };
    let mut converter = Converter::new(Format::ClaudeCode, strict);
    let unknown = FILE.lines().last().expect("a line");
    let error = converter.convert_text(unknown).expect_err("unknown");
    assert_eq!(
        error,
        FormatError::Unknown {
            kind: "hologram".to_owned()
        }
    );
}
