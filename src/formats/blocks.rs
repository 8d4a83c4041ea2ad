//! Converts content blocks of Anthropic messages, which Claude Code writes too.

use super::FormatError;
use super::json::{Fields, Json};
use super::message::{Calls, Message, argument_text, call_meta, source_of};
use super::output::Output;
use super::record::event_type;

/// Block types that are parts of a message, beside text.
const PART_TYPES: [&str; 8] = [
    "text",
    "image",
    "document",
    "search_result",
    "container_upload",
    "file",
    "audio",
    "video",
];

/// Adds the events of a message's content: consecutive texts, images and documents are one event, every other block is
/// an event of its own.
pub(super) fn push_blocks(
    out: &mut Output,
    calls: &mut Calls,
    message: &mut Message,
    content: Json,
) -> Result<(), FormatError> {
    let blocks = match content {
        Json::Array(blocks) if !blocks.is_empty() => blocks,
        content => {
            message.push_content(out, message.text_type, content, Fields::default());
            return Ok(());
        }
    };
    let mut run = Vec::new();
    for block in blocks {
        if is_part(&block) {
            run.push(block);
            continue;
        }
        flush(out, message, &mut run);
        push_block(out, calls, message, block)?;
    }
    flush(out, message, &mut run);
    Ok(())
}

/// Returns whether content has blocks that Anthropic's API has and others lack.
pub(super) fn has_blocks(content: &Json) -> bool {
    content.as_array().is_some_and(|blocks| {
        blocks
            .iter()
            .any(|block| match block.get("type").and_then(Json::as_str) {
                Some("thinking" | "redacted_thinking") => true,
                Some("image" | "document") => block.get("source").is_some(),
                Some(kind) => is_call(kind) || is_result(kind),
                None => false,
            })
    })
}

fn is_part(block: &Json) -> bool {
    match block {
        Json::String(_) => true,
        block => block
            .get("type")
            .and_then(Json::as_str)
            .is_some_and(|kind| PART_TYPES.contains(&kind)),
    }
}

fn is_call(kind: &str) -> bool {
    matches!(kind, "tool_use" | "server_tool_use" | "mcp_tool_use")
}

fn is_result(kind: &str) -> bool {
    kind == "tool_result" || kind.ends_with("_tool_result")
}

fn flush(out: &mut Output, message: &mut Message, run: &mut Vec<Json>) {
    if !run.is_empty() {
        let content = Json::Array(std::mem::take(run));
        message.push_content(out, message.text_type, content, Fields::default());
    }
}

fn push_block(
    out: &mut Output,
    calls: &mut Calls,
    message: &mut Message,
    block: Json,
) -> Result<(), FormatError> {
    let Json::Object(mut fields) = block else {
        return out.unknown("content block", block, message.meta(Fields::default()));
    };
    match fields.str("type").unwrap_or_default().to_owned() {
        kind if kind == "thinking" || kind == "redacted_thinking" => {
            fields.take("type");
            let text = fields.take_text("thinking").unwrap_or_default();
            message.push(out, event_type::THOUGHT, text, source_of(Some("block"), fields));
        }
        kind if is_call(&kind) => push_call(out, calls, message, fields),
        kind if is_result(&kind) => push_result(out, calls, message, fields),
        kind => {
            let kind = format!("content block {kind}");
            out.unknown(&kind, Json::Object(fields), message.meta(Fields::default()))?;
        }
    }
    Ok(())
}

fn push_call(out: &mut Output, calls: &mut Calls, message: &mut Message, mut fields: Fields) {
    let id = fields.take_text("id");
    let tool = fields.take_text("name");
    let content = fields.take("input").map(argument_text).unwrap_or_default();
    if let (Some(id), Some(tool)) = (&id, &tool) {
        calls.insert(id, tool);
    }
    if fields.str("type") == Some("tool_use") {
        fields.take("type");
    }
    let mut meta = call_meta(id.as_deref(), tool.as_deref());
    meta.merge(source_of(Some("block"), fields));
    message.push(out, event_type::TOOL_CALL, content, meta);
}

fn push_result(out: &mut Output, calls: &mut Calls, message: &mut Message, mut fields: Fields) {
    let id = fields.take_text("tool_use_id");
    let content = fields.take("content").unwrap_or(Json::Null);
    let mut meta = calls.result_meta(id.as_deref());
    if let Some(Json::Bool(is_error)) = fields.get("is_error").cloned() {
        fields.take("is_error");
        meta.set_some("is_error", is_error.then_some(Json::Bool(true)));
    }
    if fields.str("type") == Some("tool_result") {
        fields.take("type");
    }
    meta.merge(source_of(Some("block"), fields));
    message.push_result(out, content, meta);
}
