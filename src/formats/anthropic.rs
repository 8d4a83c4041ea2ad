//! Messages of Anthropic's API: requests with `messages` and `system`, replies, and single messages.

use super::blocks::push_blocks;
use super::json::{Fields, Json};
use super::message::{Calls, Message, source};
use super::output::{Id, Output};
use super::{FormatError, time};

#[derive(Debug, Default)]
pub(super) struct Anthropic {
    /// Number of records so far.
    records: u64,
    calls: Calls,
}

impl Anthropic {
    pub(super) fn convert(&mut self, out: &mut Output, record: Json) -> Result<(), FormatError> {
        self.records += 1;
        let mut record = match record {
            Json::Array(messages) => Fields::from([("messages", Json::Array(messages))]),
            Json::Object(record) => record,
            value => return out.unknown("value", value, Fields::default()),
        };
        if record.get("role").is_some() {
            let session = out.source().to_owned();
            let position = format!("{session}#{}", self.records);
            return self.message(out, record, &session, &position, None);
        }
        self.calls = Calls::default();
        let position = format!("{}#{}", out.source(), self.records);
        let session = ["session_id", "conversation_id", "id"]
            .into_iter()
            .find_map(|name| record.str(name).filter(|id| !id.is_empty()))
            .unwrap_or(&position)
            .to_owned();
        out.begin(&session, Id::Unknown, None);
        let Some(mut messages) = record.take_array("messages") else {
            return out.unknown("record", Json::Object(record), Fields::default());
        };
        if let Some(system) = record.take("system") {
            messages.insert(
                0,
                Json::Object(Fields::from([
                    ("role", Json::text("system")),
                    ("content", system),
                ])),
            );
        }
        let model = record.str("model").map(str::to_owned);
        let title = record.take_text("title");
        out.update_session(title.as_deref(), source(record));
        for (index, message) in messages.into_iter().enumerate() {
            let position = format!("{position}/{index}");
            match message {
                Json::Object(message) => self.message(out, message, &session, &position, model.as_deref())?,
                other => {
                    out.begin(&session, Id::Position(position), None);
                    out.unknown("message", other, Fields::default())?;
                }
            }
        }
        Ok(())
    }

    fn message(
        &mut self,
        out: &mut Output,
        mut fields: Fields,
        session: &str,
        position: &str,
        model: Option<&str>,
    ) -> Result<(), FormatError> {
        let time = ["created_at", "timestamp"]
            .into_iter()
            .find_map(|name| time::take(&mut fields, name));
        let id = fields
            .str("id")
            .map_or_else(|| Id::Position(position.to_owned()), |id| Id::Own(id.to_owned()));
        out.begin(session, id, time.as_ref());
        let role = fields.str("role").unwrap_or_default().to_owned();
        let Some(mut message) = Message::by_role(&role) else {
            return out.unknown(
                &format!("message of role {role}"),
                Json::Object(fields),
                Fields::default(),
            );
        };
        fields.take("role");
        if fields.str("type") == Some("message") {
            fields.take("type");
        }
        let content = fields.take("content").unwrap_or(Json::Null);
        let is_answer = role == "assistant";
        let own_model = if is_answer {
            fields.take_text("model")
        } else {
            None
        };
        if let Some(model) = own_model.or(model.map(str::to_owned)).filter(|_| is_answer) {
            message.common.set("model", Json::text(&model));
            message.author = Some(model);
        }
        message
            .first
            .set_some("usage", fields.take_object("usage").map(Json::Object));
        message.first.merge(source(fields));
        push_blocks(out, &mut self.calls, &mut message, content)
    }
}
