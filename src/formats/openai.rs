//! OpenAI's formats: chat messages, chat completions, responses, and lists of Conversations items.
//!
//! A record is a conversation (`{"messages": […]}`), a reply of the API, a list of items, or one message or item.

use super::items::{is_item, push_item};
use super::json::{Fields, Json};
use super::message::{Calls, Message, argument_text, call_meta, source, source_of};
use super::output::{Draft, Id, Output};
use super::record::event_type;
use super::{FormatError, time};

#[derive(Debug, Default)]
pub(super) struct OpenAi {
    /// Number of records so far.
    records: u64,
    calls: Calls,
}

impl OpenAi {
    pub(super) fn convert(&mut self, out: &mut Output, record: Json) -> Result<(), FormatError> {
        self.records += 1;
        let mut record = match record {
            Json::Array(messages) => Fields::from([("messages", Json::Array(messages))]),
            Json::Object(record) => record,
            value => return out.unknown("value", value, Fields::default()),
        };
        if record.get("role").is_some() || record.str("type").is_some_and(is_item) {
            let session = out.source().to_owned();
            let position = format!("{session}#{}", self.records);
            return self.message(out, record, &session, &position, &mut Fields::default());
        }
        self.calls = Calls::default();
        let position = format!("{}#{}", out.source(), self.records);
        let session = session_of(&record).unwrap_or_else(|| position.clone());
        out.begin(&session, Id::Unknown, None);
        let messages = messages_of(&mut record);
        if messages.is_empty() && record.str("object") != Some("conversation") {
            return out.unknown("record", Json::Object(record), Fields::default());
        }
        let mut common = Fields::default();
        common.set_some(
            "created",
            record.get("created").or(record.get("created_at")).cloned(),
        );
        common.set_some("model", record.str("model").map(Json::text));
        let title = record.take_text("title");
        let has_answer = messages.last().is_some_and(|last| last.as_object().is_some());
        let usage = if has_answer {
            record.take_object("usage")
        } else {
            None
        };
        out.update_session(title.as_deref(), source(record));
        let count = messages.len();
        for (index, message) in messages.into_iter().enumerate() {
            let position = format!("{position}/{index}");
            let Json::Object(message) = message else {
                out.begin(&session, Id::Position(position), None);
                out.unknown("message", message, Fields::default())?;
                continue;
            };
            if index + 1 == count {
                common.set_some("usage", usage.clone().map(usage_keys));
            }
            self.message(out, message, &session, &position, &mut common)?;
        }
        Ok(())
    }

    /// Adds the events of a message or an item.
    fn message(
        &mut self,
        out: &mut Output,
        mut fields: Fields,
        session: &str,
        position: &str,
        shared: &mut Fields,
    ) -> Result<(), FormatError> {
        let time = ["created_at", "created", "timestamp"]
            .into_iter()
            .find_map(|name| time::take(&mut fields, name));
        let time = time.or_else(|| shared.get("created").cloned());
        let id = match fields.str("id") {
            Some(id) if fields.str("object") != Some("chat.completion") => Id::Own(id.to_owned()),
            _ => Id::Position(position.to_owned()),
        };
        out.begin(session, id, time.as_ref());
        let mut message = Message::default();
        let is_answer = fields.str("role").is_none_or(|role| role == "assistant");
        let own_model = if is_answer {
            fields.take_text("model")
        } else {
            None
        };
        if let Some(model) = own_model
            .or(shared.str("model").map(str::to_owned))
            .filter(|_| is_answer)
        {
            message.common.set("model", Json::text(&model));
            message.author = Some(model);
        }
        message.first.set_some("usage", shared.take("usage"));
        if fields.str("type").is_some_and(is_item) {
            push_item(out, &mut self.calls, &mut message, fields)?;
            if message.first.get("usage").is_some() {
                // The item is skipped, such as the reasoning of a reply that ended before its message.
                out.push(Draft {
                    event_type: event_type::SYSTEM,
                    meta: message.meta(Fields::default()),
                    ..Draft::default()
                });
            }
            return Ok(());
        }
        self.chat_message(out, message, fields)
    }

    fn chat_message(
        &mut self,
        out: &mut Output,
        mut message: Message,
        mut fields: Fields,
    ) -> Result<(), FormatError> {
        let role = fields.str("role").unwrap_or_default().to_owned();
        let content = fields.take("content").unwrap_or(Json::Null);
        if matches!(role.as_str(), "tool" | "function") {
            fields.take("role");
            let id = fields.take_text("tool_call_id");
            let mut meta = self.calls.result_meta(id.as_deref());
            meta.set_some("tool_name", fields.take_text("name").map(Json::String));
            meta.merge(source(fields));
            message.push_result(out, content, meta);
            return Ok(());
        }
        let Some(by_role) = Message::by_role(&role) else {
            fields.set("content", content);
            return out.unknown(
                &format!("message of role {role}"),
                Json::Object(fields),
                message.meta(Fields::default()),
            );
        };
        if role != "developer" {
            fields.take("role");
        }
        message.text_type = by_role.text_type;
        message.role = by_role.role;
        message.author = fields.take_text("name").or(message.author);
        let reasoning = fields
            .take_text("reasoning_content")
            .or_else(|| fields.take_text("reasoning"));
        let calls = fields.take_array("tool_calls").unwrap_or_default();
        let legacy = fields.take_object("function_call");
        let refusal = fields.take_text("refusal").map(|text| {
            Json::Array(vec![Json::Object(Fields::from([
                ("type", Json::text("refusal")),
                ("refusal", Json::String(text)),
            ]))])
        });
        message.first.merge(source(fields));
        if let Some(reasoning) = reasoning.filter(|text| !text.is_empty()) {
            message.push(out, event_type::THOUGHT, reasoning, Fields::default());
        }
        let is_silent = content.is_empty() && (!calls.is_empty() || legacy.is_some() || refusal.is_some());
        if !is_silent {
            message.push_content(out, message.text_type, content, Fields::default());
        }
        if let Some(refusal) = refusal {
            message.push_content(out, message.text_type, refusal, Fields::default());
        }
        for call in calls
            .into_iter()
            .chain(legacy.map(|call| Json::Object(Fields::from([("function", Json::Object(call))]))))
        {
            self.call(out, &mut message, call)?;
        }
        Ok(())
    }

    fn call(&mut self, out: &mut Output, message: &mut Message, call: Json) -> Result<(), FormatError> {
        let Json::Object(mut call) = call else {
            return out.unknown("tool call", call, message.meta(Fields::default()));
        };
        let id = call.take_text("id");
        let kind = call.str("type").unwrap_or("function").to_owned();
        let mut function = call.take_object(&kind).unwrap_or_default();
        let tool = function.take_text("name");
        let arguments = function.take("arguments").or_else(|| function.take("input"));
        if let (Some(id), Some(tool)) = (&id, &tool) {
            self.calls.insert(id, tool);
        }
        if kind == "function" {
            call.take("type");
        }
        if !function.is_empty() {
            call.set(&kind, Json::Object(function));
        }
        let mut meta = call_meta(id.as_deref(), tool.as_deref());
        meta.merge(source_of(Some("call"), call));
        message.push(
            out,
            event_type::TOOL_CALL,
            arguments.map(argument_text).unwrap_or_default(),
            meta,
        );
        Ok(())
    }
}

/// Returns the id that a record gives to its conversation.
fn session_of(record: &Fields) -> Option<String> {
    let conversation = record.get("conversation");
    let id = conversation
        .and_then(|conversation| {
            conversation
                .as_str()
                .or(conversation.get("id").and_then(Json::as_str))
        })
        .or(record.str("conversation_id"))
        .or(record.str("session_id"))
        .or(record.str("thread_id"))
        .or(record.str("id"));
    id.filter(|id| !id.is_empty()).map(str::to_owned)
}

/// Removes the messages and items of a record, in the order in which they were said.
fn messages_of(record: &mut Fields) -> Vec<Json> {
    let mut messages = Vec::new();
    if record.str("object") == Some("response")
        && let Some(text) = record.take_text("instructions")
    {
        messages.push(said("developer", Json::String(text)));
    }
    match record.take_text("input") {
        Some(text) => messages.push(said("user", Json::String(text))),
        None => messages.extend(record.take_array("input").unwrap_or_default()),
    }
    for name in ["messages", "items", "data", "output"] {
        messages.extend(record.take_array(name).unwrap_or_default());
    }
    for choice in record.take_array("choices").unwrap_or_default() {
        match choice {
            Json::Object(mut choice)
                if choice
                    .get("message")
                    .is_some_and(|message| message.as_object().is_some()) =>
            {
                let mut message = choice.take_object("message").unwrap_or_default();
                message.set("choice", Json::Object(choice));
                messages.push(Json::Object(message));
            }
            other => messages.push(other),
        }
    }
    messages
}

fn said(role: &str, content: Json) -> Json {
    Json::Object(Fields::from([("role", Json::text(role)), ("content", content)]))
}

/// Returns the usage with the keys that all formats share.
fn usage_keys(mut usage: Fields) -> Json {
    for (name, key) in [
        ("prompt_tokens", "input_tokens"),
        ("completion_tokens", "output_tokens"),
    ] {
        if let Some(count) = usage.take(name) {
            usage.set(key, count);
        }
    }
    Json::Object(usage)
}
