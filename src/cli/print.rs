//! Prints events and changes as text for people or as JSON lines for programs.

use std::io::{self, Write};

use prost_types::Timestamp;
use serde_json::{Map, Value, json};

use super::printable::{self, printable};
use crate::domain::Time;
use crate::grpc::pb::{ChangeKind, Event, EventChange};
use crate::grpc::{object_of_struct, time_of};

/// The format of printed events.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    Text,
    Json,
}

impl Form {
    pub(super) fn new(json: bool) -> Self {
        if json { Self::Json } else { Self::Text }
    }

    /// Writes one event. JSON includes the cursor if there is one.
    pub(super) fn write(self, out: &mut impl Write, event: Event, cursor: Option<&str>) -> io::Result<()> {
        match self {
            Self::Text => write_text(out, &event),
            Self::Json => write_json(out, event, cursor),
        }
    }

    /// Writes one change.
    pub(super) fn write_change(self, out: &mut impl Write, change: EventChange) -> io::Result<()> {
        match self {
            Self::Text => write_change_text(out, &change),
            Self::Json => write_change_json(out, change),
        }
    }
}

/// Writes time, type and role on one line and the content below it, indented.
fn write_text(out: &mut impl Write, event: &Event) -> io::Result<()> {
    let time = event.occurred_at.and_then(time_of).map(text_of);
    let role = event.role.as_deref().unwrap_or("-");
    writeln!(
        out,
        "{}  {}  {}",
        time.unwrap_or_default(),
        printable(event.event_type()),
        printable(role)
    )?;
    for line in event.content().lines() {
        writeln!(out, "    {}", printable(line))?;
    }
    Ok(())
}

/// Writes time, number, kind, events, fields and key on one line.
fn write_change_text(out: &mut impl Write, change: &EventChange) -> io::Result<()> {
    let time = change.changed_at.and_then(time_of).map(text_of);
    let events = match change.event_ids.as_slice() {
        [event_id] => event_id.clone(),
        event_ids => format!("{} events", event_ids.len()),
    };
    let by = match change.changed_by.as_str() {
        "" => String::new(),
        prefix => format!("  by {}", printable(prefix)),
    };
    writeln!(
        out,
        "{}  {}  {}  {}  {}{by}",
        time.unwrap_or_default(),
        change.change,
        kind_name(change.kind()),
        printable(&events),
        printable(&change.fields.join(", ")),
    )
}

fn kind_name(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Unspecified => "unknown",
        ChangeKind::Updated => "updated",
        ChangeKind::Deleted => "deleted",
        ChangeKind::Restored => "restored",
        ChangeKind::Purged => "purged",
    }
}

/// Writes the change with its proto field names.
fn write_change_json(out: &mut impl Write, change: EventChange) -> io::Result<()> {
    let kind = kind_name(change.kind());
    let previous = change.previous.map(|previous| {
        let mut former = object_of_event(previous, None);
        former.retain(|name, _| change.fields.contains(name) || name == "deleted_at");
        Value::Object(former)
    });
    let object = object([
        ("spirit_id", Some(json!(change.spirit_id))),
        ("change", Some(json!(change.change))),
        ("kind", Some(json!(kind))),
        ("event_ids", Some(json!(change.event_ids))),
        ("sequences", Some(json!(change.sequences))),
        ("fields", Some(json!(change.fields))),
        ("previous", previous),
        ("revision", Some(json!(change.revision))),
        ("changed_at", json_time(change.changed_at)),
        ("changed_by", Some(json!(change.changed_by))),
    ]);
    printable::write_json(out, &object)?;
    writeln!(out)
}

/// Writes the event with its proto field names.
fn write_json(out: &mut impl Write, event: Event, cursor: Option<&str>) -> io::Result<()> {
    printable::write_json(out, &object_of_event(event, cursor))?;
    writeln!(out)
}

fn object_of_event(event: Event, cursor: Option<&str>) -> Map<String, Value> {
    let meta = event
        .meta
        .as_ref()
        .and_then(|meta| serde_json::from_str(&object_of_struct(meta)).ok());
    object([
        ("id", Some(json!(event.id))),
        ("spirit_id", event.spirit_id.map(Value::from)),
        ("sequence", Some(json!(event.sequence))),
        ("event_type", event.event_type.map(Value::from)),
        ("meta_summary", event.meta_summary.map(Value::from)),
        ("content", event.content.map(Value::from)),
        ("content_bytes", event.content_bytes.map(Value::from)),
        ("occurred_at", json_time(event.occurred_at)),
        ("session_id", event.session_id.map(Value::from)),
        ("role", event.role.map(Value::from)),
        ("author", event.author.map(Value::from)),
        ("meta", meta),
        ("source_uri", event.source_uri.map(Value::from)),
        ("dedupe_key", event.dedupe_key.map(Value::from)),
        ("importance_score", event.importance_score.map(Value::from)),
        ("revision", Some(json!(event.revision))),
        ("is_deleted", Some(json!(event.is_deleted))),
        ("deleted_at", json_time(event.deleted_at)),
        ("created_at", json_time(event.created_at)),
        ("updated_at", json_time(event.updated_at)),
        ("cursor", cursor.map(Value::from)),
    ])
}

/// Returns an object of the fields that are present.
fn object<const N: usize>(fields: [(&str, Option<Value>); N]) -> Map<String, Value> {
    let present = fields
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    present.collect()
}

fn json_time(timestamp: Option<Timestamp>) -> Option<Value> {
    let time = timestamp.and_then(time_of)?;
    Some(json!(time.to_rfc3339()))
}

/// Returns a time for people, in milliseconds.
fn text_of(time: Time) -> String {
    time.format("%Y-%m-%d %H:%M:%S%.3f").to_string()
}
