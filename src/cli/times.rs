//! Times as arguments and as text. Every printed time is UTC and is accepted as an argument.

use chrono::{DateTime, SecondsFormat};
use prost_types::Timestamp;
use serde_json::Value;

use crate::grpc::{time_of, timestamp_of};

/// Parses the time of an option, such as `2026-03-01T09:00:00Z`.
pub(super) fn time(text: &str) -> Result<Timestamp, String> {
    let time = DateTime::parse_from_rfc3339(text);
    let time = time.map_err(|error| format!("{error}; a time has the form 2026-03-01T09:00:00Z"))?;
    Ok(timestamp_of(time.to_utc()))
}

/// Returns a time to the second, or `-`.
pub(super) fn seconds(timestamp: Option<Timestamp>) -> String {
    text(timestamp, SecondsFormat::Secs)
}

/// Returns a time to the millisecond, or `-`.
pub(super) fn millis(timestamp: Option<Timestamp>) -> String {
    text(timestamp, SecondsFormat::Millis)
}

/// Returns a time to the microsecond, which is exact, or `-`.
pub(super) fn micros(timestamp: Option<Timestamp>) -> String {
    text(timestamp, SecondsFormat::Micros)
}

fn text(timestamp: Option<Timestamp>, format: SecondsFormat) -> String {
    let time = timestamp.and_then(time_of);
    time.map_or_else(|| "-".to_owned(), |time| time.to_rfc3339_opts(format, true))
}

/// Returns a time as JSON.
pub(super) fn json(timestamp: Option<Timestamp>) -> Option<Value> {
    let time = timestamp.and_then(time_of)?;
    Some(Value::from(time.to_rfc3339()))
}
