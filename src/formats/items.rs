//! Converts items of OpenAI's Responses and Conversations APIs, which Codex writes too.

use super::FormatError;
use super::json::{Fields, Json};
use super::message::{Calls, Message, argument_text, call_meta, source};
use super::output::Output;
use super::parts::flatten;
use super::record::event_type;

/// Fields that contain what a call asks for, most specific first.
const ARGUMENT_FIELDS: [&str; 9] = [
    "arguments",
    "input",
    "action",
    "operation",
    "actions",
    "code",
    "queries",
    "query",
    "revised_prompt",
];
/// Fields of a call that contain its result.
const RESULT_FIELDS: [&str; 5] = ["output", "outputs", "results", "result", "error"];
/// Item types without content of the conversation.
const SKIPPED: [&str; 4] = [
    "additional_tools",
    "compaction_trigger",
    "ghost_snapshot",
    "item_reference",
];
/// Item types that are kept as events of type `system`.
const SYSTEM: [&str; 3] = ["mcp_approval_request", "mcp_approval_response", "mcp_list_tools"];

/// Adds the events of an item. The text type and role of `message` are replaced by those of the item.
pub(super) fn push_item(
    out: &mut Output,
    calls: &mut Calls,
    message: &mut Message,
    mut item: Fields,
) -> Result<(), FormatError> {
    let kind = item.str("type").unwrap_or("message").to_owned();
    message.role = Some("assistant");
    match kind.as_str() {
        "message" => return push_message(out, calls, message, item),
        "agent_message" => {
            message.role = Some("user");
            message.author = item.take_text("author");
            item.take("type");
            let content = item.take("content").unwrap_or(Json::Null);
            message.push_content(out, event_type::MESSAGE_IN, content, source(item));
        }
        "reasoning" => push_reasoning(out, message, item),
        "compaction" | "compaction_summary" | "context_compaction" => {
            let content = item.take_text("summary").unwrap_or_default();
            message.push(out, event_type::COMPACTION, content, source(item));
        }
        kind if SKIPPED.contains(&kind) => out.skip(kind),
        kind if SYSTEM.contains(&kind) => {
            message.role = None;
            message.push(out, event_type::SYSTEM, String::new(), source(item));
        }
        kind if kind.ends_with("_output") => push_output(out, calls, message, item),
        kind if kind.ends_with("_call") => push_call(out, calls, message, kind, item),
        kind => return out.unknown(kind, Json::Object(item), message.meta(Fields::default())),
    }
    Ok(())
}

/// Returns whether a value of this type is an item.
pub(super) fn is_item(kind: &str) -> bool {
    matches!(
        kind,
        "message" | "reasoning" | "agent_message" | "compaction" | "context_compaction"
    ) || kind.ends_with("_call")
        || kind.ends_with("_call_output")
        || SKIPPED.contains(&kind)
        || SYSTEM.contains(&kind)
}

fn push_message(
    out: &mut Output,
    calls: &Calls,
    message: &mut Message,
    mut item: Fields,
) -> Result<(), FormatError> {
    let role = item.str("role").unwrap_or_default().to_owned();
    if role == "tool" {
        push_output(out, calls, message, item);
        return Ok(());
    }
    let Some(by_role) = Message::by_role(&role) else {
        let kind = format!("message of role {role}");
        return out.unknown(&kind, Json::Object(item), message.meta(Fields::default()));
    };
    item.take("type");
    if role != "developer" {
        item.take("role");
    }
    message.role = by_role.role;
    message.author = match by_role.text_type {
        event_type::MESSAGE_OUT => message.author.take(),
        _ => None,
    };
    let content = item.take("content").unwrap_or(Json::Null);
    let text_type = match by_role.text_type {
        event_type::MESSAGE_IN if !message.text_type.is_empty() => message.text_type,
        text_type => text_type,
    };
    message.push_content(out, text_type, content, source(item));
    Ok(())
}

/// Adds a thought. Reasoning of which only the encrypted form exists is skipped.
fn push_reasoning(out: &mut Output, message: &mut Message, mut item: Fields) {
    let mut texts = Vec::new();
    for name in ["summary", "content"] {
        let Some(parts) = item.take(name) else {
            continue;
        };
        let flat = flatten(parts);
        if !flat.text.is_empty() {
            texts.push(flat.text);
        }
        item.set_some(name, flat.parts);
    }
    if texts.is_empty()
        && item
            .iter()
            .all(|(name, _)| matches!(name, "type" | "id" | "encrypted_content" | "status"))
    {
        out.skip("reasoning without text");
        return;
    }
    item.take("type");
    message.push(out, event_type::THOUGHT, texts.join("\n"), source(item));
}

fn push_call(out: &mut Output, calls: &mut Calls, message: &mut Message, kind: &str, mut item: Fields) {
    let id = item.take_text("call_id").or_else(|| item.take_text("id"));
    let tool = item
        .take_text("name")
        .unwrap_or_else(|| kind.trim_end_matches("_call").to_owned());
    if let Some(id) = &id {
        calls.insert(id, &tool);
    }
    let arguments = ARGUMENT_FIELDS.iter().find_map(|name| {
        let is_set = item.get(name).is_some_and(|value| *value != Json::Null);
        if is_set { item.take(name) } else { None }
    });
    let result = RESULT_FIELDS.iter().find_map(|name| {
        let is_set = item.get(name).is_some_and(|value| *value != Json::Null);
        if is_set {
            item.take(name).map(|value| (*name, value))
        } else {
            None
        }
    });
    let mut meta = call_meta(id.as_deref(), Some(&tool));
    if kind == "function_call" {
        item.take("type");
    }
    meta.merge(source(item));
    message.push(
        out,
        event_type::TOOL_CALL,
        arguments.map(argument_text).unwrap_or_default(),
        meta,
    );
    if let Some((name, value)) = result {
        let mut meta = calls.result_meta(id.as_deref());
        meta.set_some("is_error", (name == "error").then_some(Json::Bool(true)));
        let content = match value {
            Json::String(text) if kind == "image_generation_call" => Json::Object(Fields::from([
                ("type", Json::text("image")),
                ("result", Json::String(text)),
            ])),
            value => value,
        };
        message.push_result(out, content, meta);
    }
}

fn push_output(out: &mut Output, calls: &Calls, message: &mut Message, mut item: Fields) {
    let id = item
        .take_text("call_id")
        .or_else(|| item.take_text("tool_call_id"));
    let mut meta = calls.result_meta(id.as_deref());
    let mut content = item
        .take("output")
        .or_else(|| item.take("content"))
        .unwrap_or(Json::Null);
    if let Json::Object(output) = &mut content
        && let Some(inner) = output.take("content")
    {
        if output.get("success") == Some(&Json::Bool(false)) {
            meta.set("is_error", Json::Bool(true));
        }
        if !output.is_empty() {
            item.set("output", Json::Object(std::mem::take(output)));
        }
        content = inner;
    }
    if item.str("type") == Some("function_call_output") {
        item.take("type");
    }
    if item.str("role") == Some("tool") {
        item.take("role");
    }
    meta.merge(source(item));
    message.push_result(out, content, meta);
}
