//! Resources as their fields, by their names in the proto: as a JSON object, or as text with a line for each field.
//! Fields that are absent are left out.

use std::io::{self, Write};

use prost_types::{Duration, Struct};
use serde::ser::{Serialize, SerializeMap as _, Serializer};
use serde_json::{Map, Value, json};

use super::printable::{printable_lines, write_json};
use super::times;
use crate::grpc::object_of_struct;
use crate::grpc::pb::{
    CreateEventResponse, CreateOutcome, Event, EventChange, GetAccessResponse, Purge, Retention, Session,
    Spirit,
};

/// Names and values of fields in the order in which they are printed.
#[derive(Clone, Debug, Default)]
pub(super) struct Record(Vec<(&'static str, Value)>);

impl Record {
    /// Returns a record of the fields that are present.
    pub(super) fn of<const N: usize>(fields: [(&'static str, Option<Value>); N]) -> Self {
        let present = fields
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)));
        Self(present.collect())
    }

    /// Returns a record with one more field.
    pub(super) fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.0.push((name, value.into()));
        self
    }

    /// Writes a JSON line.
    pub(super) fn write_json(&self, out: &mut impl Write) -> io::Result<()> {
        write_json(out, self)?;
        writeln!(out)
    }

    /// Writes a line for each field. Further lines of a text are indented.
    pub(super) fn write_text(&self, out: &mut impl Write) -> io::Result<()> {
        let width = self
            .0
            .iter()
            .map(|(name, _)| name.len())
            .max()
            .unwrap_or_default();
        for (name, value) in &self.0 {
            let text = match value {
                Value::String(text) => printable_lines(text),
                other => {
                    let mut json = Vec::new();
                    write_json(&mut json, other)?;
                    String::from_utf8_lossy(&json).into_owned()
                }
            };
            let mut lines = text.lines();
            let first = format!("{name:width$}  {}", lines.next().unwrap_or_default());
            writeln!(out, "{}", first.trim_end())?;
            for line in lines {
                writeln!(out, "{:width$}  {line}", "")?;
            }
        }
        Ok(())
    }
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            object.serialize_entry(name, value)?;
        }
        object.end()
    }
}

impl From<Record> for Value {
    fn from(record: Record) -> Self {
        let fields = record.0.into_iter().map(|(name, value)| (name.to_owned(), value));
        Self::Object(fields.collect())
    }
}

impl From<Event> for Record {
    fn from(event: Event) -> Self {
        Self::of([
            ("id", Some(json!(event.id))),
            ("spirit_id", event.spirit_id.map(Value::from)),
            ("sequence", Some(json!(event.sequence))),
            ("event_type", event.event_type.map(Value::from)),
            ("meta_summary", event.meta_summary.map(Value::from)),
            ("content", event.content.map(Value::from)),
            ("content_bytes", event.content_bytes.map(Value::from)),
            ("occurred_at", times::json(event.occurred_at)),
            ("session_id", event.session_id.map(Value::from)),
            ("role", event.role.map(Value::from)),
            ("author", event.author.map(Value::from)),
            ("meta", event.meta.as_ref().map(map_of).map(Value::Object)),
            ("source_uri", event.source_uri.map(Value::from)),
            ("dedupe_key", event.dedupe_key.map(Value::from)),
            ("importance_score", event.importance_score.map(Value::from)),
            ("revision", Some(json!(event.revision))),
            ("is_deleted", Some(json!(event.is_deleted))),
            ("deleted_at", times::json(event.deleted_at)),
            ("created_at", times::json(event.created_at)),
            ("updated_at", times::json(event.updated_at)),
        ])
    }
}

/// The event and the outcome of its create.
impl From<CreateEventResponse> for Record {
    fn from(response: CreateEventResponse) -> Self {
        let outcome = outcome_name(response.outcome());
        Self::from(response.event.unwrap_or_default()).with("outcome", outcome)
    }
}

impl From<EventChange> for Record {
    fn from(change: EventChange) -> Self {
        let kind = kind_name(&change);
        let previous = change.previous.map(|previous| {
            let mut former = Self::from(previous);
            let changed = |name: &str| change.fields.iter().any(|field| field == name);
            former
                .0
                .retain(|(name, _)| changed(name) || *name == "deleted_at");
            Value::from(former)
        });
        Self::of([
            ("spirit_id", Some(json!(change.spirit_id))),
            ("change", Some(json!(change.change))),
            ("kind", Some(json!(kind))),
            ("event_ids", Some(json!(change.event_ids))),
            ("sequences", Some(json!(change.sequences))),
            ("fields", Some(json!(change.fields))),
            ("previous", previous),
            ("revision", Some(json!(change.revision))),
            ("changed_at", times::json(change.changed_at)),
            ("changed_by", Some(json!(change.changed_by))),
        ])
    }
}

impl From<Session> for Record {
    fn from(session: Session) -> Self {
        Self::of([
            ("spirit_id", Some(json!(session.spirit_id))),
            ("session_id", Some(json!(session.session_id))),
            ("event_count", session.event_count.map(Value::from)),
            ("first_occurred_at", times::json(session.first_occurred_at)),
            ("last_occurred_at", times::json(session.last_occurred_at)),
            ("title", session.title.map(Value::from)),
            ("owner", session.owner.map(Value::from)),
            ("meta", session.meta.as_ref().map(map_of).map(Value::Object)),
            ("last_sequence", Some(json!(session.last_sequence))),
            ("revision", Some(json!(session.revision))),
            ("updated_at", times::json(session.updated_at)),
        ])
    }
}

impl From<Spirit> for Record {
    fn from(spirit: Spirit) -> Self {
        Self::of([
            ("id", Some(json!(spirit.id))),
            ("name", spirit.name.map(Value::from)),
            ("description", spirit.description.map(Value::from)),
            ("meta", spirit.meta.as_ref().map(map_of).map(Value::Object)),
            ("last_sequence", Some(json!(spirit.last_sequence))),
            ("is_deleted", Some(json!(spirit.is_deleted))),
            ("deleted_at", times::json(spirit.deleted_at)),
            ("revision", Some(json!(spirit.revision))),
            ("created_at", times::json(spirit.created_at)),
            ("updated_at", times::json(spirit.updated_at)),
            ("last_change", Some(json!(spirit.last_change))),
            ("retention", spirit.retention.map(|ages| Self::from(ages).into())),
        ])
    }
}

impl From<Retention> for Record {
    fn from(retention: Retention) -> Self {
        let age = |age: Option<Duration>| age.map(|age| json!(age.to_string()));
        Self::of([
            ("max_age", age(retention.max_age)),
            ("deleted_max_age", age(retention.deleted_max_age)),
            ("history_max_age", age(retention.history_max_age)),
        ])
    }
}

impl From<Purge> for Record {
    fn from(purge: Purge) -> Self {
        let selection = selection_name(&purge);
        Self::of([
            ("purge_id", Some(json!(purge.purge_id))),
            ("spirit_id", Some(json!(purge.spirit_id))),
            ("selection", Some(json!(selection))),
            ("reason", purge.reason.map(Value::from)),
            ("requested_by", Some(json!(purge.requested_by))),
            ("started_at", times::json(purge.started_at)),
            ("finished_at", times::json(purge.finished_at)),
            ("purged_count", Some(json!(purge.purged_count))),
            ("lowest_sequence", Some(json!(purge.lowest_sequence))),
            ("highest_sequence", Some(json!(purge.highest_sequence))),
        ])
    }
}

impl From<GetAccessResponse> for Record {
    fn from(access: GetAccessResponse) -> Self {
        let role = short_name(access.role().as_str_name(), "ACCESS_ROLE_");
        Self::of([
            ("role", Some(json!(role))),
            ("spirit_ids", Some(json!(access.spirit_ids))),
            ("key_prefix", access.key_prefix.map(Value::from)),
            ("expires_at", times::json(access.expires_at)),
        ])
    }
}

/// Returns the name of a change's kind, such as `updated`.
pub(super) fn kind_name(change: &EventChange) -> String {
    short_name(change.kind().as_str_name(), "CHANGE_KIND_")
}

/// Returns the name of a purge's selection, such as `session_id`.
pub(super) fn selection_name(purge: &Purge) -> String {
    short_name(purge.selection().as_str_name(), "PURGE_SELECTION_")
}

/// Returns the name of an outcome, such as `duplicate`.
pub(super) fn outcome_name(outcome: CreateOutcome) -> String {
    short_name(outcome.as_str_name(), "CREATE_OUTCOME_")
}

/// Returns the name of an enum's value in lower case without the prefix of its enum.
fn short_name(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_lowercase()
}

/// Returns an object as `serde_json` has it.
pub(super) fn map_of(object: &Struct) -> Map<String, Value> {
    serde_json::from_str(&object_of_struct(object)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_as_text_has_a_line_for_each_field_and_no_control_characters() {
        let event = Event {
            id: "e".to_owned(),
            content: Some("one\n\u{1b}[2Jtwo\n".to_owned()),
            author: Some(String::new()),
            ..Event::default()
        };
        let mut out = Vec::new();
        Record::from(event)
            .write_text(&mut out)
            .expect("a Vec takes everything");
        assert_eq!(
            String::from_utf8(out).as_deref(),
            Ok(
                "id          e\nsequence    0\ncontent     one\n            [2Jtwo\nauthor\nrevision    0\nis_deleted  false\n"
            )
        );
    }
}
