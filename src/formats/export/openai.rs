//! Events to OpenAI chat messages.

use super::super::json::{Fields, Json};
use super::super::parts::restore;
use super::super::record::{Event, event_type};
use super::{exported, parts};

/// Returns `{"messages": […]}`. Thoughts, messages and calls of the agent that follow each other are one message, as the
/// API returns them. Errors and summaries of the context are messages of the system. Events of other types are left out.
#[must_use]
pub fn to_openai(events: &[Event]) -> Json {
    let mut messages = Vec::new();
    let mut answer = Answer::default();
    for event in exported(events) {
        let role = match event.event_type.as_str() {
            event_type::THOUGHT | event_type::MESSAGE_OUT | event_type::TOOL_CALL => {
                if !answer.accepts(event) {
                    answer.flush(&mut messages);
                }
                answer.add(event);
                continue;
            }
            event_type::MESSAGE_IN => "user",
            event_type::TOOL_RESULT => "tool",
            event_type::SYSTEM | event_type::ERROR | event_type::COMPACTION if !event.content.is_empty() => {
                "system"
            }
            _ => continue,
        };
        answer.flush(&mut messages);
        let mut message = Fields::from([("role", Json::text(role))]);
        if role == "tool" {
            message.set(
                "tool_call_id",
                Json::text(event.meta_str("tool_call_id").unwrap_or_default()),
            );
        } else {
            message.set_some("name", event.author.as_ref().map(Json::text));
        }
        message.set("content", content(event));
        messages.push(Json::Object(message));
    }
    answer.flush(&mut messages);
    Json::Object(Fields::from([("messages", Json::Array(messages))]))
}

/// A message of the assistant that is being put together.
#[derive(Default)]
struct Answer {
    reasoning: Option<String>,
    content: Option<Json>,
    calls: Vec<Json>,
}

impl Answer {
    fn accepts(&self, event: &Event) -> bool {
        match event.event_type.as_str() {
            event_type::THOUGHT => {
                self.reasoning.is_none() && self.content.is_none() && self.calls.is_empty()
            }
            event_type::MESSAGE_OUT => self.content.is_none() && self.calls.is_empty(),
            _ => true,
        }
    }

    fn add(&mut self, event: &Event) {
        match event.event_type.as_str() {
            event_type::THOUGHT => self.reasoning = Some(event.content.clone()),
            event_type::MESSAGE_OUT => self.content = Some(content(event)),
            _ => self.calls.push(call(event)),
        }
    }

    fn flush(&mut self, messages: &mut Vec<Json>) {
        let Self {
            reasoning,
            content,
            calls,
        } = std::mem::take(self);
        if reasoning.is_none() && content.is_none() && calls.is_empty() {
            return;
        }
        let mut message = Fields::from([("role", Json::text("assistant"))]);
        message.set("content", content.unwrap_or(Json::Null));
        message.set_some("reasoning_content", reasoning.map(Json::String));
        if !calls.is_empty() {
            message.set("tool_calls", Json::Array(calls));
        }
        messages.push(Json::Object(message));
    }
}

fn call(event: &Event) -> Json {
    let function = Fields::from([
        (
            "name",
            Json::text(event.meta_str("tool_name").unwrap_or_default()),
        ),
        ("arguments", Json::text(&event.content)),
    ]);
    Json::Object(Fields::from([
        (
            "id",
            Json::text(event.meta_str("tool_call_id").unwrap_or_default()),
        ),
        ("type", Json::text("function")),
        ("function", Json::Object(function)),
    ]))
}

/// Returns the content as text, or as parts if all of them are parts of chat messages.
fn content(event: &Event) -> Json {
    let parts = parts(event);
    let is_chat = parts.as_ref().and_then(Json::as_array).is_some_and(|parts| {
        parts.iter().all(|part| {
            matches!(
                part.get("type").and_then(Json::as_str),
                Some("text" | "image_url" | "input_audio" | "file" | "refusal")
            )
        })
    });
    restore(&event.content, parts.as_ref().filter(|_| is_chat))
}
