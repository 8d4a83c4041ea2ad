//! Recognises the format of a record.

use super::Format;
use super::blocks::has_blocks;
use super::items::is_item;
use super::json::{Fields, Json};

pub(super) fn detect(record: &Json) -> Option<Format> {
    match record {
        Json::Array(items) => items.iter().find_map(detect),
        Json::Object(fields) => detect_object(fields),
        _ => None,
    }
}

fn detect_object(record: &Fields) -> Option<Format> {
    if record.str("event_type").is_some() {
        return None;
    }
    if record
        .str("schema_version")
        .is_some_and(|version| version.starts_with("ATIF"))
    {
        return Some(Format::Atif);
    }
    let has = |name| record.get(name).is_some();
    let kind = record.str("type").unwrap_or_default();
    let is_rollout = matches!(
        kind,
        "session_meta" | "response_item" | "event_msg" | "turn_context" | "compacted"
    );
    let is_first_rollout =
        kind.is_empty() && has("id") && has("timestamp") && (has("instructions") || has("git"));
    if (is_rollout && has("payload")) || is_first_rollout || has("record_type") {
        return Some(Format::Codex);
    }
    let claude = [
        "sessionId",
        "uuid",
        "leafUuid",
        "aiTitle",
        "customTitle",
        "messageId",
        "isSidechain",
    ];
    if !kind.is_empty() && claude.into_iter().any(has) {
        return Some(Format::ClaudeCode);
    }
    if let Some(messages) = record.get("messages").and_then(Json::as_array) {
        let is_anthropic =
            has("system") || has("anthropic_version") || messages.iter().any(is_anthropic_message);
        let is_claude = record.str("model").is_some_and(|model| model.contains("claude"));
        return Some(if is_anthropic || is_claude {
            Format::Anthropic
        } else {
            Format::OpenAi
        });
    }
    if is_anthropic_message(&Json::Object(record.clone())) || (kind == "message" && has("stop_reason")) {
        return Some(Format::Anthropic);
    }
    let object = record.str("object").unwrap_or_default();
    let is_openai = matches!(object, "response" | "list" | "conversation" | "chat.completion")
        || (has("role") && (has("content") || has("tool_calls")))
        || ["items", "choices", "output"].into_iter().any(|name| {
            record
                .get(name)
                .and_then(Json::as_array)
                .is_some_and(|items| items.iter().any(is_openai_item))
        })
        || is_item(kind);
    is_openai.then_some(Format::OpenAi)
}

fn is_anthropic_message(message: &Json) -> bool {
    message.get("role").is_some() && message.get("content").is_some_and(has_blocks)
}

fn is_openai_item(item: &Json) -> bool {
    item.get("role").is_some()
        || item.get("message").is_some()
        || item.get("type").and_then(Json::as_str).is_some_and(is_item)
}
