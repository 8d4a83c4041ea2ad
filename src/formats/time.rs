//! Reads the times of transcripts.

use chrono::{DateTime, NaiveDateTime, SubsecRound as _, Utc};

use super::json::{Fields, Json};

/// Fractional digits of a second in stored times.
const MICROSECOND_DIGITS: u16 = 6;
/// Magnitude below which a number counts seconds since 1970.
const SECONDS_MAX: f64 = 1e11;
/// Magnitude below which a number counts milliseconds since 1970.
const MILLISECONDS_MAX: f64 = 1e14;

/// Returns a time given as RFC 3339, as ISO 8601 without an offset, which is taken as UTC, or as a number since 1970 in
/// seconds, milliseconds or microseconds, which its magnitude tells apart.
pub(super) fn parse(time: &Json) -> Option<DateTime<Utc>> {
    match time {
        Json::String(text) => DateTime::parse_from_rfc3339(text)
            .map(DateTime::<Utc>::from)
            .or_else(|_| text.parse::<NaiveDateTime>().map(|time| time.and_utc()))
            .ok()
            .map(|time| time.trunc_subsecs(MICROSECOND_DIGITS)),
        Json::Number(text) => from_number(text.parse().ok()?),
        _ => None,
    }
}

/// Removes and returns a field that is a time. Anything else stays.
pub(super) fn take(fields: &mut Fields, name: &str) -> Option<Json> {
    parse(fields.get(name)?)?;
    fields.take(name)
}

#[allow(clippy::cast_possible_truncation)] // a cast saturates, and chrono refuses what is out of its range
fn from_number(number: f64) -> Option<DateTime<Utc>> {
    let microseconds = match number.abs() {
        seconds if seconds < SECONDS_MAX => number * 1e6,
        milliseconds if milliseconds < MILLISECONDS_MAX => number * 1e3,
        _ => number,
    };
    DateTime::from_timestamp_micros(microseconds.round() as i64)
}

/// Formats a time as RFC 3339 in UTC, with as many fractional digits as it needs.
pub(super) fn format(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_text_and_as_numbers() {
        let text = |text: &str| parse(&Json::text(text)).map(format);
        let number = |text: &str| parse(&Json::Number(text.to_owned())).map(format);
        let expected = Some("2026-01-02T03:04:05.500Z".to_owned());
        assert_eq!(text("2026-01-02T03:04:05.5Z"), expected);
        assert_eq!(text("2026-01-02T04:04:05.500000400+01:00"), expected);
        assert_eq!(text("2026-01-02T03:04:05.5"), expected);
        assert_eq!(number("1767323045.5"), expected);
        assert_eq!(number("1767323045500"), expected);
        assert_eq!(number("1767323045500000"), expected);
        assert_eq!(text("yesterday"), None);
        assert_eq!(number("1e300"), None);
    }
}
