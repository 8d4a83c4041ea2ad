//! Rollout files of Codex: a JSON object a line, with a time, a type and a payload.

use super::items::{is_item, push_item};
use super::json::{Fields, Json};
use super::message::{Calls, Message, source, source_of};
use super::output::{Draft, Id, Output};
use super::record::event_type;
use super::{FormatError, time};

/// Types of `event_msg` that repeat response items, or tell the state of the program.
const DOUBLES: [&str; 22] = [
    "agent_message",
    "agent_reasoning",
    "agent_reasoning_raw_content",
    "agent_reasoning_section_break",
    "background_event",
    "context_compacted",
    "dynamic_tool_call_request",
    "dynamic_tool_call_response",
    "exec_command_end",
    "image_generation_end",
    "mcp_tool_call_end",
    "patch_apply_end",
    "plan_update",
    "session_configured",
    "task_complete",
    "task_started",
    "turn_complete",
    "turn_diff",
    "turn_started",
    "user_message",
    "view_image_tool_call",
    "web_search_end",
];
/// Types of `event_msg` that are kept as events of type `system`.
const NOTICES: [&str; 13] = [
    "collab_agent_interaction_end",
    "collab_agent_spawn_end",
    "collab_close_end",
    "collab_resume_end",
    "collab_waiting_end",
    "deprecation_notice",
    "entered_review_mode",
    "exited_review_mode",
    "guardian_assessment",
    "item_completed",
    "thread_rolled_back",
    "turn_aborted",
    "warning",
];
/// Beginnings of messages that Codex writes in the name of the user.
const CONTEXT: [&str; 6] = [
    "# AGENTS.md instructions",
    "<environment_context>",
    "<permissions instructions>",
    "<subagent_notification>",
    "<turn_aborted>",
    "<user_instructions>",
];

#[derive(Debug, Default)]
pub(super) struct Codex {
    session: Option<String>,
    /// Number of records so far.
    records: u64,
    model: Option<String>,
    turn: Option<String>,
    agent_path: Option<Json>,
    /// Fields of the current line beside time, type and payload.
    rest: Fields,
    /// The total of the last token count, which is written again when nothing was used.
    total: Option<Json>,
    calls: Calls,
}

impl Codex {
    pub(super) fn convert(&mut self, out: &mut Output, record: Json) -> Result<(), FormatError> {
        self.records += 1;
        let Json::Object(mut record) = record else {
            return out.unknown("value", record, Fields::default());
        };
        let time = record.get("timestamp").cloned();
        self.begin(out, time.as_ref());
        let kind = record.str("type").unwrap_or_default().to_owned();
        self.rest = Fields::default();
        let Some(payload) = record.take_object("payload") else {
            return self.bare(out, &kind, record, time.as_ref());
        };
        time::take(&mut record, "timestamp");
        record.take_text("type");
        self.rest = record;
        match kind.as_str() {
            "session_meta" => self.session(out, payload, time.as_ref()),
            "turn_context" => {
                self.model = payload.str("model").map(str::to_owned).or(self.model.take());
                self.turn = payload.str("turn_id").map(str::to_owned).or(self.turn.take());
                out.skip("turn_context");
            }
            "response_item" => return self.item(out, payload),
            "event_msg" => return self.event(out, payload),
            "compacted" => self.compacted(out, payload),
            kind => {
                self.rest.set("type", Json::text(kind));
                return out.unknown(kind, Json::Object(payload), self.meta());
            }
        }
        Ok(())
    }

    fn begin(&self, out: &mut Output, time: Option<&Json>) {
        let session = self.session.clone().unwrap_or_else(|| out.source().to_owned());
        out.begin(&session, Id::Position(self.records.to_string()), time);
    }

    /// Converts a line of the first versions, which had no payload.
    fn bare(
        &mut self,
        out: &mut Output,
        kind: &str,
        record: Fields,
        time: Option<&Json>,
    ) -> Result<(), FormatError> {
        if record.str("record_type").is_some() {
            out.skip("state");
        } else if kind.is_empty() && record.get("id").is_some() {
            self.session(out, record, time);
        } else if is_item(kind) {
            return self.item(out, record);
        } else {
            return out.unknown(kind, Json::Object(record), self.meta());
        }
        Ok(())
    }

    /// Takes the id of the session. A fork contains the header of its parent too, which is skipped.
    fn session(&mut self, out: &mut Output, mut payload: Fields, time: Option<&Json>) {
        if self.session.is_some() {
            out.skip("session_meta of another session");
            return;
        }
        self.session = payload.take_text("id");
        self.agent_path = agent_path(&payload);
        self.begin(out, time);
        let instructions = payload
            .take_text("instructions")
            .or_else(|| payload.take_object("base_instructions")?.take_text("text"));
        if !self.rest.is_empty() {
            payload.set("record", Json::Object(self.rest.clone()));
        }
        out.update_session(None, source(payload));
        if let Some(content) = instructions {
            out.push(Draft {
                event_type: event_type::SYSTEM,
                role: Some("system"),
                content,
                meta: self.meta(),
                ..Draft::default()
            });
        }
    }

    fn item(&mut self, out: &mut Output, item: Fields) -> Result<(), FormatError> {
        let mut message = Message {
            author: self.model.clone(),
            common: self.meta(),
            ..Message::default()
        };
        if item.str("type").unwrap_or_default() == "message" && is_context(&item) {
            message.text_type = event_type::SYSTEM;
        }
        push_item(out, &mut self.calls, &mut message, item)
    }

    fn event(&mut self, out: &mut Output, mut payload: Fields) -> Result<(), FormatError> {
        let kind = payload.str("type").unwrap_or_default().to_owned();
        let skipped = format!("event_msg.{kind}");
        match kind.as_str() {
            "token_count" => self.usage(out, payload),
            "error" | "stream_error" => {
                let content = payload.take_text("message").unwrap_or_default();
                self.notice(out, event_type::ERROR, content, payload);
            }
            "thread_name_updated" => match payload.str("thread_name").or(payload.str("name")) {
                Some(title) => out.update_session(Some(title), Fields::default()),
                None => out.skip(&skipped),
            },
            kind if DOUBLES.contains(&kind) => {
                self.turn = payload.str("turn_id").map(str::to_owned).or(self.turn.take());
                out.skip(&skipped);
            }
            kind if NOTICES.contains(&kind) => self.notice(out, event_type::SYSTEM, String::new(), payload),
            _ => return out.unknown(&skipped, Json::Object(payload), self.meta()),
        }
        Ok(())
    }

    /// Adds an event with the tokens of a call of the model, which Codex writes after the items of the reply.
    fn usage(&mut self, out: &mut Output, mut payload: Fields) {
        let mut info = payload.take_object("info").unwrap_or_default();
        let total = info.take("total_token_usage");
        let usage = info.take_object("last_token_usage");
        let (Some(usage), false) = (usage, total.is_some() && total == self.total) else {
            out.skip("event_msg.token_count");
            return;
        };
        self.total = total;
        let mut meta = self.meta();
        meta.set("usage", Json::Object(usage));
        meta.merge(source(Fields::from([("type", Json::text("token_count"))])));
        out.push(Draft {
            event_type: event_type::SYSTEM,
            meta,
            ..Draft::default()
        });
    }

    fn notice(&self, out: &mut Output, event_type: &'static str, content: String, payload: Fields) {
        let mut meta = self.meta();
        meta.merge(source(payload));
        out.push(Draft {
            event_type,
            content,
            meta,
            ..Draft::default()
        });
    }

    fn compacted(&self, out: &mut Output, mut payload: Fields) {
        let content = payload.take_text("message").unwrap_or_default();
        if payload
            .take("replacement_history")
            .is_some_and(|history| history != Json::Null)
        {
            out.skip("compacted.replacement_history");
        }
        self.notice(out, event_type::COMPACTION, content, payload);
    }

    fn meta(&self) -> Fields {
        let mut meta = Fields::default();
        meta.set_some("turn_id", self.turn.as_ref().map(Json::text));
        meta.set_some("model", self.model.as_ref().map(Json::text));
        meta.set_some("agent_path", self.agent_path.clone());
        meta.merge(source_of(Some("record"), self.rest.clone()));
        meta
    }
}

/// Returns the path of a subagent, which has a file of its own.
fn agent_path(payload: &Fields) -> Option<Json> {
    let spawn = payload.get("source")?.get("subagent")?;
    let thread = spawn.get("thread_spawn").unwrap_or(spawn);
    let name = ["agent_nickname", "agent_role"]
        .into_iter()
        .find_map(|name| thread.get(name)?.as_str().or(payload.str(name)))
        .or(spawn.as_str())
        .unwrap_or("subagent");
    Some(Json::Array(vec![Json::text("main"), Json::text(name)]))
}

/// Returns whether a user message was written by Codex, which describes the environment in this way.
fn is_context(item: &Fields) -> bool {
    let first = item
        .get("content")
        .and_then(Json::as_array)
        .and_then(<[Json]>::first);
    let text = first
        .and_then(|part| part.get("text"))
        .and_then(Json::as_str)
        .unwrap_or_default();
    CONTEXT
        .iter()
        .any(|beginning| text.trim_start().starts_with(beginning))
}
