//! Anthropic messages.

use elephantasm_events::formats::Format;

use super::{convert, events, lines, options, sessions};

#[test]
fn a_request_becomes_events() {
    let records = convert(
        Format::Anthropic,
        options(),
        [include_str!("files/anthropic.json")],
    );
    let events = events(&records);
    assert_eq!(
        lines(&events),
        [
            "system system - - Be kind.",
            "message.in user - - What is in the box?",
            "message.out assistant claude-test-1 - Let me look.",
            r#"tool.call assistant claude-test-1 t1 {"box":1}"#,
            "tool.result tool open t1 a ball\na hat",
            "message.in user - - Well?",
            r#"tool.call assistant claude-test-1 w1 {"query":"hats"}"#,
            "tool.result tool web_search w1 ",
            "thought assistant claude-test-1 - ",
            "message.out assistant claude-test-1 - A ball and a hat.",
        ]
    );
    assert_eq!(events[0].meta["parts"][0]["cache_control"]["type"], "ephemeral");
    assert_eq!(events[7].meta["parts"][0]["title"], "Hats");
    assert_eq!(events[8].source("block").expect("kept")["data"], "c2VjcmV0");
    assert_eq!(sessions(&records)[0].meta["source"]["max_tokens"], 100);
}

#[test]
fn a_reply_and_single_messages_become_events() {
    let reply = r#"{"id":"msg-1","type":"message","role":"assistant","model":"claude-test-1","content":[{"type":"text","text":"Hi"}],"stop_reason":"end_turn","usage":{"input_tokens":1,"output_tokens":2}}"#;
    let events = events(&convert(
        Format::Anthropic,
        options(),
        [r#"{"role":"user","content":"Hello"}"#, reply],
    ));
    assert_eq!(
        lines(&events),
        [
            "message.in user - - Hello",
            "message.out assistant claude-test-1 - Hi"
        ]
    );
    assert!(
        events
            .iter()
            .all(|event| event.session_id.as_deref() == Some("file"))
    );
    assert_eq!(events[1].meta["usage"]["output_tokens"], 2);
    assert_eq!(events[1].source("stop_reason").expect("kept"), "end_turn");
}
