//! Changes of stored events: edits, soft deletes, restores and purges, with the former values.

use serde_json::Value;

use super::Time;
use super::edit::EventFields;
use super::event::Event;
use super::ids::{EventId, SpiritId};
use super::meta::Meta;

/// The kind of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// Fields were edited; the event stayed deleted or live.
    Updated,
    /// Events were soft-deleted.
    Deleted,
    /// Events were restored.
    Restored,
    /// Events were removed for good.
    Purged,
}

impl ChangeKind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Updated, Self::Deleted, Self::Restored, Self::Purged];

    /// Returns the name that the database and metrics use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Updated => "updated",
            Self::Deleted => "deleted",
            Self::Restored => "restored",
            Self::Purged => "purged",
        }
    }

    /// Returns the kind with this name; `None` if the name is unknown.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// A stored change: of one event, or a step of a change of many events.
#[derive(Clone, Debug, PartialEq)]
pub struct EventChange {
    pub spirit_id: SpiritId,
    /// Position among the changes of the spirit.
    pub change: i64,
    pub kind: ChangeKind,
    /// The events that changed, by sequence.
    pub event_ids: Vec<EventId>,
    /// The sequences of these events.
    pub sequences: Vec<i64>,
    /// Names of the fields that changed.
    pub fields: Vec<String>,
    /// The former values of the fields; `None` for a step of a change of many events.
    pub previous: Option<FormerValues>,
    /// The revision of the event after the change; 0 for a step of a change of many events.
    pub revision: i64,
    pub changed_at: Time,
    /// Prefix of the API key with which the change was made.
    pub changed_by: Option<String>,
}

impl EventChange {
    /// Returns the position in the changes of an event.
    #[must_use]
    pub fn position(&self) -> ChangePosition {
        ChangePosition {
            spirit_id: self.spirit_id,
            change: self.change,
        }
    }

    /// Returns the bytes of former meta and summary.
    #[must_use]
    pub fn text_bytes(&self) -> usize {
        let Some(previous) = &self.previous else { return 0 };
        let meta = previous.meta.as_ref().map_or(0, |meta| meta.as_json().len());
        meta + previous.meta_summary.as_ref().map_or(0, String::len)
    }
}

/// The position of a change among those of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangePosition {
    pub spirit_id: SpiritId,
    pub change: i64,
}

/// The former values of the fields that a change of one event changed. Other fields are `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FormerValues {
    pub meta_summary: Option<String>,
    pub importance_score: Option<f64>,
    pub meta: Option<Meta>,
    pub role: Option<String>,
    pub author: Option<String>,
    pub is_deleted: bool,
    pub deleted_at: Option<Time>,
}

/// The fields that an edit changes in an event, for its history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedFields {
    /// Names of the fields, as in update masks.
    pub names: Vec<&'static str>,
    /// The former values of these fields that were set, as a JSON object.
    pub previous: String,
}

impl ChangedFields {
    /// Compares an event in the FULL view with its fields after an edit.
    #[must_use]
    pub fn between(event: &Event, edited: &EventFields) -> Self {
        let EventFields {
            meta_summary,
            importance_score,
            meta,
            role,
            author,
            is_deleted,
        } = edited;
        let former_meta = event.meta.as_ref().map_or("{}", Meta::as_json);
        let mut changed = Self {
            names: Vec::new(),
            previous: "{".to_owned(),
        };
        if event.meta_summary != *meta_summary {
            changed.add("meta_summary", text(event.meta_summary.as_deref()));
        }
        if event.importance_score != *importance_score {
            changed.add(
                "importance_score",
                event.importance_score.map(|score| score.to_string()),
            );
        }
        if former_meta != meta.as_json() {
            changed.add("meta", Some(former_meta.to_owned()));
        }
        if event.role != *role {
            changed.add("role", text(event.role.as_deref()));
        }
        if event.author != *author {
            changed.add("author", text(event.author.as_deref()));
        }
        if event.deleted_at.is_some() != *is_deleted {
            let deleted_at = event.deleted_at.map(|time| time.to_rfc3339());
            changed.add("is_deleted", Some((!is_deleted).to_string()));
            changed.write("deleted_at", text(deleted_at.as_deref()));
        }
        changed.previous.push('}');
        changed
    }

    /// Adds a field and its former value as JSON, if it had one.
    fn add(&mut self, name: &'static str, former: Option<String>) {
        self.names.push(name);
        self.write(name, former);
    }

    fn write(&mut self, name: &str, former: Option<String>) {
        if let Some(former) = former {
            if self.previous.len() > 1 {
                self.previous.push(',');
            }
            self.previous.push('"');
            self.previous.push_str(name);
            self.previous.push_str("\":");
            self.previous.push_str(&former);
        }
    }
}

/// Returns the text as a JSON string.
fn text(text: Option<&str>) -> Option<String> {
    text.map(|text| Value::from(text).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::filter::start_of_year;

    fn event() -> Event {
        let time = start_of_year(2_026);
        Event {
            id: EventId::generate(),
            spirit_id: SpiritId::generate(),
            sequence: 1,
            event_type: "message".to_owned(),
            meta_summary: None,
            content: Some(String::new()),
            content_bytes: None,
            occurred_at: time,
            session_id: None,
            role: Some("a \"quoted\" role".to_owned()),
            author: None,
            meta: Some(Meta::from_json("{\"n\": 1}".to_owned())),
            source_uri: None,
            dedupe_key: None,
            importance_score: Some(0.1),
            revision: 1,
            deleted_at: Some(time),
            created_at: time,
            updated_at: time,
        }
    }

    #[test]
    fn changed_fields_are_named_and_their_former_values_are_json() {
        let edited = EventFields {
            meta_summary: Some("new".to_owned()),
            importance_score: None,
            meta: Meta::empty(),
            role: None,
            author: Some("new".to_owned()),
            is_deleted: false,
        };
        let changed = ChangedFields::between(&event(), &edited);
        let names = [
            "meta_summary",
            "importance_score",
            "meta",
            "role",
            "author",
            "is_deleted",
        ];
        assert_eq!(changed.names, names);
        let previous: Value = serde_json::from_str(&changed.previous).expect("JSON");
        let expected = serde_json::json!({
            "importance_score": 0.1,
            "meta": { "n": 1 },
            "role": "a \"quoted\" role",
            "is_deleted": true,
            "deleted_at": "2026-01-01T00:00:00+00:00",
        });
        assert_eq!(previous, expected);
    }

    #[test]
    fn unchanged_fields_are_not_named() {
        let edited = EventFields {
            role: None,
            ..EventFields::of(&event())
        };
        let changed = ChangedFields::between(&event(), &edited);
        assert_eq!(changed.names, ["role"]);
        assert_eq!(changed.previous, r#"{"role":"a \"quoted\" role"}"#);
    }
}
