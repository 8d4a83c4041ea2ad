//! Rows of the Python backend to spirits and events. A value that the service does not have is changed by a rule, which
//! the report counts; a row that breaks a limit is left out.

use serde_json::Value;

use super::super::import::fault::Fault;
use crate::domain::Time;
use crate::domain::event::Event;
use crate::domain::ids::{EventId, SpiritId};
use crate::domain::invalid::Fields;
use crate::domain::limits::{
    DEDUPE_KEY_CHARS_MAX, DESCRIPTION_BYTES_MAX, EVENT_TYPE_CHARS_MAX, Limits, META_LEVELS_MAX,
    META_SUMMARY_BYTES_MAX, NAME_CHARS_MAX, SESSION_ID_CHARS_MAX, SOURCE_URI_CHARS_MAX,
};
use crate::domain::meta::{META_NOTATION, Meta};
use crate::formats::json::{Fields as JsonFields, Json};
use crate::store::{LegacyEvent, LegacySpirit, MovedSpirit};

/// A row, and the rules by which it was changed.
#[derive(Debug)]
pub(super) struct Converted<T> {
    pub(super) row: T,
    pub(super) changes: Changes,
}

/// The rules by which a row was changed.
pub(super) type Changes = Vec<&'static str>;

/// Converts a spirit. A spirit without a name is named by its id.
pub(super) fn spirit(row: LegacySpirit, limits: &Limits) -> Result<Converted<MovedSpirit>, Fault> {
    let mut c = Conversion::default();
    let updated_at = c.time("updated_at", row.updated_at);
    let name = if row.name.is_empty() {
        c.changes.push("empty name of a spirit → its id");
        row.id.to_string()
    } else {
        row.name
    };
    let spirit = MovedSpirit {
        id: SpiritId(row.id),
        name: c.fields.chars("name", name, NAME_CHARS_MAX),
        description: row
            .description
            .map(|text| c.fields.bytes("description", text, DESCRIPTION_BYTES_MAX)),
        meta: row.meta.map_or_else(Meta::empty, |text| c.object(&text, limits)),
        deleted_at: row.is_deleted.then_some(updated_at),
        created_at: c.time("created_at", row.created_at),
        updated_at,
    };
    c.finish(spirit)
}

/// Converts an event.
pub(super) fn event(row: LegacyEvent, limits: &Limits) -> Result<Converted<Event>, Fault> {
    let (Some(content), Some(meta)) = (row.content, row.meta) else {
        let text = format!("its texts have {} bytes, more than an event may have", row.bytes);
        return Err(Fault::new("too long", text));
    };
    let mut c = Conversion::default();
    let created_at = c.time("created_at", row.created_at);
    let updated_at = c.time("updated_at", row.updated_at);
    let occurred_at = if row.has_occurred_at {
        c.time("occurred_at", row.occurred_at)
    } else {
        c.changes.push("no occurred_at → created_at");
        created_at
    };
    let event = Event {
        id: EventId(row.id),
        spirit_id: SpiritId(row.spirit_id),
        sequence: 0, // is assigned when the event is stored
        event_type: c.fields.chars("event_type", row.event_type, EVENT_TYPE_CHARS_MAX),
        meta_summary: row
            .meta_summary
            .map(|text| c.fields.bytes("meta_summary", text, META_SUMMARY_BYTES_MAX)),
        content: Some(c.fields.bytes("content", content, limits.content_bytes_max)),
        content_bytes: None,
        occurred_at,
        session_id: c.text("session_id", row.session_id, SESSION_ID_CHARS_MAX),
        role: None,
        author: None,
        meta: Some(c.object(&meta, limits)),
        source_uri: c.text("source_uri", row.source_uri, SOURCE_URI_CHARS_MAX),
        dedupe_key: c.text("dedupe_key", row.dedupe_key, DEDUPE_KEY_CHARS_MAX),
        importance_score: c.score(row.importance_score),
        revision: 1,
        deleted_at: row.is_deleted.then_some(updated_at),
        created_at,
        updated_at,
    };
    c.finish(event)
}

/// The conversion of one row: the fields that break a limit, and the rules by which the others were changed.
#[derive(Default)]
struct Conversion {
    fields: Fields,
    changes: Changes,
}

impl Conversion {
    fn finish<T>(self, row: T) -> Result<Converted<T>, Fault> {
        let row = self.fields.finish(row)?;
        Ok(Converted {
            row,
            changes: self.changes,
        })
    }

    /// Converts a time that the row must have.
    fn time(&mut self, field: &str, time: Option<Time>) -> Time {
        time.unwrap_or_else(|| {
            self.fields.refuse(field, "is outside the years 1 to 9999");
            Time::UNIX_EPOCH
        })
    }

    /// Converts a text that the service does not store if it is empty.
    fn text(&mut self, field: &'static str, text: Option<String>, chars_max: usize) -> Option<String> {
        let text = text?;
        if text.is_empty() {
            self.changes.push(match field {
                "session_id" => "empty session_id → none",
                "source_uri" => "empty source_uri → none",
                _ => "empty dedupe_key → none",
            });
            return None;
        }
        Some(self.fields.chars(field, text, chars_max))
    }

    fn score(&mut self, score: Option<f64>) -> Option<f64> {
        let score = score?;
        if !(0.0..=1.0).contains(&score) {
            self.changes.push("importance_score outside 0 to 1 → none");
            return None;
        }
        Some(score + 0.0) // -0.0 becomes 0.0
    }

    /// Converts `meta`, which must be an object within the limits whose numbers are exact as doubles.
    fn object(&mut self, text: &str, limits: &Limits) -> Meta {
        let json = match Json::parse(text) {
            Ok(json @ Json::Object(_)) => json,
            Ok(other) => {
                self.changes.push("meta that is no object → {\"value\": …}");
                let mut fields = JsonFields::default();
                fields.set("value", other);
                Json::Object(fields)
            }
            Err(error) => {
                self.fields.refuse("meta", format_args!("is not JSON: {error}"));
                return Meta::empty();
            }
        };
        if json.levels() > META_LEVELS_MAX {
            let rule = format_args!("must have at most {META_LEVELS_MAX} levels");
            self.fields.refuse("meta", rule);
        }
        let value = json.clone().into_value();
        if has_changed_number(&json, &value) {
            self.changes
                .push("number in meta that a double cannot hold → a string");
        }
        let meta = Meta::from_json(value.to_string());
        let (bytes, bytes_max) = (meta.printed_bytes(), limits.meta_bytes_max);
        if bytes > bytes_max {
            let rule = format_args!("must have at most {bytes_max} bytes as {META_NOTATION}, has {bytes}");
            self.fields.refuse("meta", rule);
        }
        meta
    }
}

/// Returns whether a number has become a string.
fn has_changed_number(json: &Json, value: &Value) -> bool {
    match (json, value) {
        (Json::Number(_), Value::String(_)) => true,
        (Json::Array(items), Value::Array(values)) => items
            .iter()
            .zip(values)
            .any(|(item, value)| has_changed_number(item, value)),
        (Json::Object(fields), Value::Object(values)) => fields.iter().any(|(name, field)| {
            values
                .get(name)
                .is_some_and(|value| has_changed_number(field, value))
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn row() -> LegacyEvent {
        LegacyEvent {
            id: Uuid::from_u128(7),
            spirit_id: Uuid::from_u128(1),
            event_type: "message.in".to_owned(),
            bytes: 10,
            meta_summary: None,
            source_uri: None,
            content: Some(String::new()),
            meta: Some("{}".to_owned()),
            has_occurred_at: true,
            occurred_at: Some(Time::UNIX_EPOCH),
            session_id: None,
            dedupe_key: None,
            importance_score: Some(0.5),
            is_deleted: false,
            created_at: Some(Time::UNIX_EPOCH),
            updated_at: Some(Time::UNIX_EPOCH),
        }
    }

    #[test]
    fn values_that_the_service_lacks_are_changed_and_named() {
        let unusual = LegacyEvent {
            session_id: Some(String::new()),
            dedupe_key: Some(String::new()),
            meta: Some("[1234567890123456789]".to_owned()),
            has_occurred_at: false,
            occurred_at: None,
            importance_score: Some(f64::NAN),
            ..row()
        };
        let converted = event(unusual, &Limits::default()).expect("an event");
        assert_eq!(
            converted.changes,
            [
                "no occurred_at → created_at",
                "empty session_id → none",
                "meta that is no object → {\"value\": …}",
                "number in meta that a double cannot hold → a string",
                "empty dedupe_key → none",
                "importance_score outside 0 to 1 → none",
            ]
        );
        let stored = converted.row;
        assert_eq!(
            (stored.session_id, stored.dedupe_key, stored.importance_score),
            (None, None, None)
        );
        let meta = stored.meta.expect("meta");
        assert_eq!(meta.as_json(), r#"{"value":["1234567890123456789"]}"#);
        assert!(
            event(row(), &Limits::default())
                .expect("an event")
                .changes
                .is_empty()
        );
    }

    #[test]
    fn an_event_beyond_a_limit_is_left_out_and_its_fields_are_named() {
        let limits = Limits {
            content_bytes_max: 5,
            meta_bytes_max: 64 * 1024,
        };
        let text = |row| event(row, &limits).expect_err("beyond a limit").text;
        let long = LegacyEvent {
            content: Some("123456".to_owned()),
            event_type: String::new(),
            created_at: None,
            ..row()
        };
        let long = text(long);
        assert!(
            ["content", "event_type", "created_at"]
                .iter()
                .all(|field| long.contains(field)),
            "{long}"
        );
        assert!(
            text(LegacyEvent {
                content: None,
                ..row()
            })
            .contains("10 bytes")
        );
    }
}
