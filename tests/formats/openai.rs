//! OpenAI chat messages, completions, responses and lists of items.

use elephantasm_events::formats::Format;
use elephantasm_events::formats::export::to_openai;
use serde_json::{Value, json};

use super::{convert, events, lines, options, sessions};

const CHAT: &str = include_str!("files/openai-chat.jsonl");

#[test]
fn chat_messages_become_events_with_one_session_a_line() {
    let records = convert(Format::OpenAi, options(), CHAT.lines());
    let events = events(&records);
    assert_eq!(
        lines(&events),
        [
            "system system - - Be brief.",
            "message.in user mara - What is on this?",
            r#"tool.call assistant - c1 {"at": 1}"#,
            "tool.call assistant - c2 {}",
            "tool.result tool look c2 a dog",
            "tool.result tool look c1 a cat",
            "thought assistant - - Two animals.",
            "message.out assistant - - A cat and a dog.",
            "message.out assistant - - No more.",
            "message.out assistant gpt-test - Hello",
        ]
    );
    assert_eq!(events[1].session_id.as_deref(), Some("file#1"));
    assert_eq!(events[9].session_id.as_deref(), Some("chatcmpl-1"));
    assert_eq!(
        events[9].meta["usage"],
        json!({"input_tokens": 3, "output_tokens": 1})
    );
    assert_eq!(events[9].occurred_at.expect("created").timestamp(), 1_780_000_000);
    assert!(
        events[..9].iter().all(|event| event.occurred_at.is_none()),
        "the source has no times"
    );
}

#[test]
fn chat_messages_are_exported_as_they_were() {
    let line = CHAT.lines().next().expect("a line");
    let events = events(&convert(Format::OpenAi, options(), [line]));
    let mut expected: Value = serde_json::from_str(line).expect("JSON");
    let last = &mut expected["messages"][6];
    *last = json!({"role": "assistant", "content": [{"type": "refusal", "refusal": "No more."}]});
    let exported: Value = serde_json::from_str(&to_openai(&events).to_string()).expect("JSON");
    assert_eq!(exported, expected);
}

#[test]
fn a_response_becomes_its_instructions_its_input_and_its_items() {
    let records = convert(
        Format::OpenAi,
        options(),
        [include_str!("files/openai-response.json")],
    );
    let events = events(&records);
    assert_eq!(
        lines(&events),
        [
            "system system - - Be brief.",
            "message.in user - - Add 2 and 2",
            "thought assistant gpt-test - Simple sum.",
            "tool.call assistant gpt-test ci-1 2+2",
            "tool.result tool code_interpreter ci-1 ",
            r#"tool.call assistant gpt-test mcp-1 {"a":2}"#,
            "tool.result tool add mcp-1 no such tool",
            "message.out assistant gpt-test - 4",
        ]
    );
    assert_eq!(events[4].meta["parts"][0]["logs"], "4");
    assert_eq!(events[6].meta["is_error"], true);
    assert_eq!(events[7].meta["usage"]["output_tokens"], 5);
    assert!(
        events
            .iter()
            .all(|event| event.session_id.as_deref() == Some("conv-1"))
    );
    assert_eq!(sessions(&records)[0].meta["source"]["id"], "resp-1");
}

#[test]
fn a_list_of_items_becomes_events_and_unknown_roles_are_kept() {
    let events = events(&convert(
        Format::OpenAi,
        options(),
        [include_str!("files/openai-items.json")],
    ));
    assert_eq!(
        lines(&events),
        [
            "message.in user - - hi",
            "tool.call assistant - call-1 {}",
            "tool.result tool greet call-1 hello",
            "system - - - ",
        ]
    );
    assert_eq!(
        events[3].source("unknown").expect("kept")["role"],
        "discriminator"
    );
}

#[test]
fn the_usage_of_a_reply_without_a_message_is_an_event() {
    let reply = r#"{"object":"response","id":"r","status":"incomplete","model":"m","usage":{"output_tokens":9},
        "output":[{"type":"reasoning","id":"rs","encrypted_content":"x"}]}"#;
    let records = convert(Format::OpenAi, options(), [reply]);
    let events = events(&records);
    let [event] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!(event.event_type, "system");
    assert_eq!(event.meta["usage"], json!({"output_tokens": 9}));
}
