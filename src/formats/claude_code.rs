//! Session files of Claude Code: a JSON object a line, with a type, a session id, a UUID and a time.

use super::blocks::push_blocks;
use super::json::{Fields, Json};
use super::message::{Calls, Message, source, source_of};
use super::output::{Draft, Id, Output};
use super::record::event_type;
use super::{FormatError, time};

/// Record types without content of the conversation.
const BOOKKEEPING: [&str; 14] = [
    "agent-name",
    "bridge-session",
    "file-history-delta",
    "file-history-snapshot",
    "last-prompt",
    "mode",
    "permission-mode",
    "pr-link",
    "progress",
    "queue-operation",
    "relocated",
    "tag",
    "task-summary",
    "worktree-state",
];
/// Bytes up to which `toolUseResult`, which repeats the result of a tool for display, is kept.
const TOOL_USE_RESULT_BYTES_MAX: usize = 4 * 1024;

/// The precedence of a title: that of the user, of the model, or of an old summary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum TitleRank {
    #[default]
    None,
    Summary,
    Generated,
    Given,
}

#[derive(Debug)]
struct Title {
    rank: TitleRank,
    text: String,
    /// Further fields of the record.
    rest: Fields,
}

#[derive(Debug, Default)]
pub(super) struct ClaudeCode {
    session: String,
    /// Number of records so far.
    records: u64,
    turn: Option<String>,
    /// The API message of the last record. Its blocks are records of their own, each with the usage.
    message: Option<String>,
    calls: Calls,
    rank: TitleRank,
    /// A title that came before the first session id.
    pending: Option<Title>,
}

impl ClaudeCode {
    pub(super) fn convert(&mut self, out: &mut Output, record: Json) -> Result<(), FormatError> {
        self.records += 1;
        let Json::Object(record) = record else {
            return out.unknown("value", record, Fields::default());
        };
        let session = record.str("sessionId").filter(|id| !id.is_empty());
        if let Some(session) = session.filter(|id| *id != self.session) {
            self.rank = TitleRank::None;
            session.clone_into(&mut self.session);
        }
        let id = match record.str("uuid") {
            Some(uuid) => Id::Own(uuid.to_owned()),
            None => Id::Position(format!("{}#{}", out.source(), self.records)),
        };
        out.begin(&self.session, id, record.get("timestamp"));
        if !self.session.is_empty()
            && let Some(title) = self.pending.take()
        {
            self.title(out, title);
        }
        let kind = record.str("type").unwrap_or_default().to_owned();
        match kind.as_str() {
            "user" | "assistant"
                if record
                    .get("message")
                    .is_some_and(|message| message.as_object().is_some()) =>
            {
                return self.message(out, record);
            }
            "system" => push_system(out, &self.agent_meta(&record), record),
            "attachment" => {
                let mut meta = self.agent_meta(&record);
                meta.merge(source(record));
                out.push(Draft {
                    event_type: event_type::SYSTEM,
                    role: Some("system"),
                    meta,
                    ..Draft::default()
                });
            }
            "summary" => self.take_title(out, TitleRank::Summary, record, &["summary"]),
            "ai-title" => self.take_title(out, TitleRank::Generated, record, &["aiTitle", "title"]),
            "custom-title" => self.take_title(out, TitleRank::Given, record, &["customTitle", "title"]),
            kind if BOOKKEEPING.contains(&kind) => out.skip(kind),
            kind => return out.unknown(kind, Json::Object(record), Fields::default()),
        }
        Ok(())
    }

    /// Counts a title that belongs to no session.
    pub(super) fn finish(&mut self, out: &mut Output) {
        if self.pending.take().is_some() {
            out.skip("title");
        }
    }

    fn message(&mut self, out: &mut Output, mut record: Fields) -> Result<(), FormatError> {
        let mut api = record.take_object("message").unwrap_or_default();
        let is_user = record.str("type") == Some("user");
        let content = api.take("content").unwrap_or(Json::Null);
        let mut message = Message {
            text_type: text_type(&record, is_user),
            role: Some(if is_user { "user" } else { "assistant" }),
            ..Message::default()
        };
        if is_user && is_prompt(&record, &content) {
            self.turn = record.str("promptId").or(record.str("uuid")).map(str::to_owned);
        }
        message.common = self.agent_meta(&record);
        if let Some(model) = api.take_text("model") {
            message.common.set("model", Json::text(&model));
            message.author = Some(model);
        }
        if let Some(uuid) = record.take("uuid") {
            message.common.object("source").set("uuid", uuid);
        }
        self.usage(&mut api, &mut message.first);
        take_envelope(&mut record);
        if matches!(api.str("role"), Some("user" | "assistant")) {
            api.take("role");
        }
        if record
            .get("toolUseResult")
            .is_some_and(|result| result.to_string().len() > TOOL_USE_RESULT_BYTES_MAX)
        {
            record.take("toolUseResult");
            out.skip("toolUseResult");
        }
        if !api.is_empty() {
            record.set("message", Json::Object(api));
        }
        message.first.merge(source(record));
        push_blocks(out, &mut self.calls, &mut message, content)
    }

    /// Moves the usage of an API message to the `meta` of the first event of its first record. Its later records repeat
    /// it, and keep it in `source`.
    fn usage(&mut self, api: &mut Fields, first: &mut Fields) {
        let id = api.str("id").map(str::to_owned);
        if id.is_none() || id != self.message {
            first.set_some("usage", api.take_object("usage").map(Json::Object));
        }
        if id.is_some() {
            self.message = id;
        }
    }

    /// Returns `meta` with the turn, and with the path of the agent in the records of a subagent.
    fn agent_meta(&self, record: &Fields) -> Fields {
        let mut meta = Fields::default();
        if record.get("isSidechain") == Some(&Json::Bool(true)) {
            let name = record
                .str("agentId")
                .or(record.str("agentName"))
                .unwrap_or("sidechain");
            meta.set(
                "agent_path",
                Json::Array(vec![Json::text("main"), Json::text(name)]),
            );
        } else {
            meta.set_some("turn_id", self.turn.as_ref().map(Json::text));
        }
        meta
    }

    fn take_title(&mut self, out: &mut Output, rank: TitleRank, mut rest: Fields, names: &[&str]) {
        let Some(text) = names.iter().find_map(|name| rest.take_text(name)) else {
            out.skip("title");
            return;
        };
        take_envelope(&mut rest);
        for known in ["leafUuid", "uuid"] {
            rest.take_text(known);
        }
        let title = Title { rank, text, rest };
        if !self.session.is_empty() {
            self.title(out, title);
        } else if self.pending.replace(title).is_some() {
            out.skip("title");
        }
    }

    fn title(&mut self, out: &mut Output, title: Title) {
        if title.rank < self.rank {
            out.skip("title");
            return;
        }
        self.rank = title.rank;
        out.update_session(Some(&title.text), source_of(Some("title"), title.rest));
    }
}

fn text_type(record: &Fields, is_user: bool) -> &'static str {
    let has = |flag| record.get(flag) == Some(&Json::Bool(true));
    match is_user {
        true if has("isCompactSummary") => event_type::COMPACTION,
        true if has("isMeta") => event_type::SYSTEM,
        true => event_type::MESSAGE_IN,
        false if has("isApiErrorMessage") => event_type::ERROR,
        false => event_type::MESSAGE_OUT,
    }
}

/// Returns whether a user record is a message of the user, which begins a turn.
fn is_prompt(record: &Fields, content: &Json) -> bool {
    let has = |flag| record.get(flag) == Some(&Json::Bool(true));
    let has_result = content.as_array().is_some_and(|blocks| {
        blocks
            .iter()
            .any(|block| block.get("type").and_then(Json::as_str) == Some("tool_result"))
    });
    !(has("isMeta") || has("isSidechain") || has("isCompactSummary") || has_result)
}

/// Removes the fields that every record has and whose values are in fields of the event.
fn take_envelope(record: &mut Fields) {
    record.take_text("type");
    record.take_text("sessionId");
    time::take(record, "timestamp");
}

fn push_system(out: &mut Output, meta: &Fields, mut record: Fields) {
    let is_error = record.str("level") == Some("error") || record.str("subtype") == Some("api_error");
    let content = record.take_text("content").unwrap_or_default();
    take_envelope(&mut record);
    let mut meta = meta.clone();
    meta.merge(source(record));
    out.push(Draft {
        event_type: if is_error {
            event_type::ERROR
        } else {
            event_type::SYSTEM
        },
        role: Some("system"),
        content,
        meta,
        ..Draft::default()
    });
}
