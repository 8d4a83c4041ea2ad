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

/// Returns a time as JSON, with as many digits as it has.
pub(super) fn json(timestamp: Option<Timestamp>) -> Option<Value> {
    format(timestamp, SecondsFormat::AutoSi).map(Value::from)
}

fn text(timestamp: Option<Timestamp>, digits: SecondsFormat) -> String {
    format(timestamp, digits).unwrap_or_else(|| "-".to_owned())
}

/// Formats a time in UTC, whose zone is `Z`.
fn format(timestamp: Option<Timestamp>, digits: SecondsFormat) -> Option<String> {
    let time = timestamp.and_then(time_of)?;
    Some(time.to_rfc3339_opts(digits, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_time_is_utc_and_is_accepted_as_an_argument() {
        let timestamp = time("2026-03-01T10:00:00.25+01:00").expect("valid");
        let json = json(Some(timestamp)).expect("a time");
        let forms = [
            seconds(Some(timestamp)),
            millis(Some(timestamp)),
            micros(Some(timestamp)),
            json.as_str().expect("a text").to_owned(),
        ];
        assert_eq!(
            forms,
            [
                "2026-03-01T09:00:00Z",
                "2026-03-01T09:00:00.250Z",
                "2026-03-01T09:00:00.250000Z",
                "2026-03-01T09:00:00.250Z",
            ]
        );
        assert_eq!(time(&forms[3]), Ok(timestamp));
        assert_eq!((seconds(None), super::json(None)), ("-".to_owned(), None));
    }
}
