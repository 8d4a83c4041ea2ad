//! The common part of all events that one record of a transcript becomes.

use std::collections::HashMap;

use super::json::{Fields, Json};
use super::output::{Draft, Output};
use super::parts::flatten;
use super::record::event_type;

/// Number of calls without a result whose tool is remembered.
const CALLS_MAX: usize = 10_000;

/// The properties of a record that its events share.
#[derive(Clone, Debug, Default)]
pub(super) struct Message {
    /// Type of the events for text.
    pub(super) text_type: &'static str,
    pub(super) role: Option<&'static str>,
    pub(super) author: Option<String>,
    /// `meta` of every event.
    pub(super) common: Fields,
    /// `meta` of the first event, in addition.
    pub(super) first: Fields,
}

impl Message {
    /// Creates the properties of a message by its role, or returns `None` if the role is unknown.
    pub(super) fn by_role(role: &str) -> Option<Self> {
        let (text_type, role) = match role {
            "user" => (event_type::MESSAGE_IN, "user"),
            "assistant" => (event_type::MESSAGE_OUT, "assistant"),
            "system" | "developer" => (event_type::SYSTEM, "system"),
            _ => return None,
        };
        Some(Self {
            text_type,
            role: Some(role),
            ..Self::default()
        })
    }

    /// Adds an event with text and other parts of a message.
    pub(super) fn push_content(
        &mut self,
        out: &mut Output,
        event_type: &'static str,
        content: Json,
        mut meta: Fields,
    ) {
        let flat = flatten(content);
        meta.set_some("parts", flat.parts);
        self.push(out, event_type, flat.text, meta);
    }

    /// Adds an event of the speaker.
    pub(super) fn push(&mut self, out: &mut Output, event_type: &'static str, content: String, meta: Fields) {
        let draft = Draft {
            event_type,
            role: self.role,
            author: self.author.clone(),
            content,
            meta: self.meta(meta),
        };
        out.push(draft);
    }

    /// Adds the result of a tool.
    pub(super) fn push_result(&mut self, out: &mut Output, content: Json, mut meta: Fields) {
        let flat = flatten(content);
        meta.set_some("parts", flat.parts);
        let author = meta.str("tool_name").map(str::to_owned);
        let draft = Draft {
            event_type: event_type::TOOL_RESULT,
            role: Some("tool"),
            author,
            content: flat.text,
            meta: self.meta(meta),
        };
        out.push(draft);
    }

    /// Returns the `meta` of the next event.
    pub(super) fn meta(&mut self, meta: Fields) -> Fields {
        let mut merged = self.common.clone();
        merged.merge(std::mem::take(&mut self.first));
        merged.merge(meta);
        merged
    }
}

/// The names of tools by the ids of their calls, for results that lack the name.
#[derive(Debug, Default)]
pub(super) struct Calls(HashMap<String, String>);

impl Calls {
    pub(super) fn insert(&mut self, call_id: &str, tool: &str) {
        if self.0.len() >= CALLS_MAX {
            self.0.clear();
        }
        self.0.insert(call_id.to_owned(), tool.to_owned());
    }

    /// Returns `meta` of the result of a call.
    pub(super) fn result_meta(&self, call_id: Option<&str>) -> Fields {
        let mut meta = Fields::default();
        meta.set_some("tool_call_id", call_id.map(Json::text));
        let tool = call_id.and_then(|id| self.0.get(id));
        meta.set_some("tool_name", tool.map(Json::text));
        meta
    }
}

/// Returns `meta` of a call.
pub(super) fn call_meta(call_id: Option<&str>, tool: Option<&str>) -> Fields {
    let mut meta = Fields::default();
    meta.set_some("tool_call_id", call_id.map(Json::text));
    meta.set_some("tool_name", tool.map(Json::text));
    meta
}

/// Returns `meta` with the fields that the conversion did not map, under `source`.
pub(super) fn source(fields: Fields) -> Fields {
    source_of(None, fields)
}

/// As [`source`], in a field of `source` if it has a name.
pub(super) fn source_of(name: Option<&str>, fields: Fields) -> Fields {
    if fields.is_empty() {
        return Fields::default();
    }
    let inner = match name {
        Some(name) => Fields::from([(name, Json::Object(fields))]),
        None => fields,
    };
    Fields::from([("source", Json::Object(inner))])
}

/// Returns the text of a string, and any other value as compact JSON.
pub(super) fn argument_text(arguments: Json) -> String {
    match arguments {
        Json::String(text) => text,
        other => other.to_string(),
    }
}
