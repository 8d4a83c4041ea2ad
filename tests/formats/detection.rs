//! Recognition of formats.

use elephantasm_events::formats::Format;
use elephantasm_events::formats::json::Json;

fn detect(record: &str) -> Option<Format> {
    Format::detect(&Json::parse(record).expect("JSON"))
}

#[test]
fn every_file_is_recognised_by_its_first_record() {
    for (record, format) in [
        (
            include_str!("files/claude-code.jsonl").lines().next(),
            Format::ClaudeCode,
        ),
        (include_str!("files/codex.jsonl").lines().next(), Format::Codex),
        (Some(include_str!("files/atif.json")), Format::Atif),
        (
            include_str!("files/openai-chat.jsonl").lines().next(),
            Format::OpenAi,
        ),
        (Some(include_str!("files/openai-response.json")), Format::OpenAi),
        (Some(include_str!("files/openai-items.json")), Format::OpenAi),
        (Some(include_str!("files/anthropic.json")), Format::Anthropic),
    ] {
        assert_eq!(detect(record.expect("a record")), Some(format));
    }
}

#[test]
fn records_are_told_apart_by_their_fields() {
    for (record, format) in [
        (
            r#"{"event_type":"message.in","role":"user","content":"hi"}"#,
            None,
        ),
        (r#"{"spirit_id":"x"}"#, None),
        ("[]", None),
        ("7", None),
        (r#"[{"role":"user","content":"hi"}]"#, Some(Format::OpenAi)),
        (
            r#"{"role":"assistant","content":null,"tool_calls":[]}"#,
            Some(Format::OpenAi),
        ),
        (
            r#"{"role":"assistant","content":[{"type":"tool_use","id":"t"}]}"#,
            Some(Format::Anthropic),
        ),
        (
            r#"{"messages":[{"role":"user","content":"hi"}],"model":"claude-x"}"#,
            Some(Format::Anthropic),
        ),
        (
            r#"{"messages":[{"role":"user","content":"hi"}],"system":"x"}"#,
            Some(Format::Anthropic),
        ),
        (
            r#"{"type":"message","role":"assistant","content":[],"stop_reason":null}"#,
            Some(Format::Anthropic),
        ),
        (
            r#"{"type":"message","role":"assistant","content":[{"type":"output_text","text":""}]}"#,
            Some(Format::OpenAi),
        ),
        (r#"{"type":"function_call","call_id":"c"}"#, Some(Format::OpenAi)),
        (r#"{"items":[{"type":"reasoning"}]}"#, Some(Format::OpenAi)),
        (
            r#"{"choices":[{"message":{"role":"assistant"}}]}"#,
            Some(Format::OpenAi),
        ),
        (
            r#"{"type":"ai-title","aiTitle":"x","sessionId":"s"}"#,
            Some(Format::ClaudeCode),
        ),
        (
            r#"{"type":"summary","summary":"x","leafUuid":"u"}"#,
            Some(Format::ClaudeCode),
        ),
        (
            r#"{"id":"x","timestamp":"2025-05-01T10:00:00Z","instructions":null}"#,
            Some(Format::Codex),
        ),
        (r#"{"schema_version":"ATIF-v1.0","steps":[]}"#, Some(Format::Atif)),
    ] {
        assert_eq!(detect(record), format, "{record}");
    }
}
