//! Prints events as text for people or as JSON lines for programs.

use std::io::{self, Write};

use serde_json::{Map, Value, json};

use super::printable::{self, printable};
use crate::domain::Time;
use crate::grpc::pb::Event;
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
}

/// Writes time, type and role on one line and the content below it, indented.
fn write_text(out: &mut impl Write, event: &Event) -> io::Result<()> {
    let time = event
        .occurred_at
        .and_then(time_of)
        .map(|time| time.format("%Y-%m-%d %H:%M:%S%.3f").to_string());
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

/// Writes the event with its proto field names; absent fields are left out.
fn write_json(out: &mut impl Write, event: Event, cursor: Option<&str>) -> io::Result<()> {
    let time = |timestamp| Option::and_then(timestamp, time_of).map(|time: Time| json!(time.to_rfc3339()));
    let meta = event
        .meta
        .as_ref()
        .and_then(|meta| serde_json::from_str(&object_of_struct(meta)).ok());
    let fields: [(&str, Option<Value>); 21] = [
        ("id", Some(json!(event.id))),
        ("spirit_id", event.spirit_id.map(Value::from)),
        ("sequence", Some(json!(event.sequence))),
        ("event_type", event.event_type.map(Value::from)),
        ("meta_summary", event.meta_summary.map(Value::from)),
        ("content", event.content.map(Value::from)),
        ("content_bytes", event.content_bytes.map(Value::from)),
        ("occurred_at", time(event.occurred_at)),
        ("session_id", event.session_id.map(Value::from)),
        ("role", event.role.map(Value::from)),
        ("author", event.author.map(Value::from)),
        ("meta", meta),
        ("source_uri", event.source_uri.map(Value::from)),
        ("dedupe_key", event.dedupe_key.map(Value::from)),
        ("importance_score", event.importance_score.map(Value::from)),
        ("revision", Some(json!(event.revision))),
        ("is_deleted", Some(json!(event.is_deleted))),
        ("deleted_at", time(event.deleted_at)),
        ("created_at", time(event.created_at)),
        ("updated_at", time(event.updated_at)),
        ("cursor", cursor.map(Value::from)),
    ];
    let object: Map<String, Value> = fields
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect();
    printable::write_json(out, &object)?;
    writeln!(out)
}
