//! Reads `occurred_at`: ISO 8601 with a zone, without one if the caller assumes UTC, or an epoch number.

use chrono::{NaiveDate, NaiveTime, Timelike as _};
use prost_types::Timestamp;

use super::fault::Fault;

const KIND: &str = "occurred_at";
/// Magnitude below which an epoch number counts seconds.
const SECONDS_MAX: i128 = 100_000_000_000;
/// Magnitude below which it counts milliseconds; above it counts microseconds.
const MILLISECONDS_MAX: i128 = 100_000_000_000_000;
const NANOS_A_SECOND: i128 = 1_000_000_000;
/// Digits of an epoch number that are read, before and after the point.
const EPOCH_DIGITS_MAX: usize = 18;
const DATE_LEN: usize = "2025-10-17".len();

/// Parses a time in text, with or without quotes in the source.
pub(super) fn timestamp(text: &str, assume_utc: bool) -> Result<Timestamp, Fault> {
    if is_number(text) {
        return epoch(text).ok_or_else(|| wrong(text, "is too large for a time since 1970"));
    }
    let (local, zone) = split_zone(text);
    let offset = match zone {
        Some(zone) => offset_seconds(zone).ok_or_else(|| wrong(text, "has no valid offset"))?,
        None if assume_utc => 0,
        None if local_seconds(local).is_some() => {
            return Err(wrong(
                text,
                "has no time zone; --assume-utc reads such times as UTC",
            ));
        }
        None => return Err(not_a_time(text)),
    };
    let (seconds, nanos) = local_seconds(local).ok_or_else(|| not_a_time(text))?;
    Ok(Timestamp {
        seconds: seconds - offset,
        nanos,
    })
}

fn wrong(text: &str, rule: &str) -> Fault {
    let shown: String = text.chars().take(60).collect();
    Fault::new(KIND, format!("occurred_at \"{shown}\" {rule}"))
}

fn not_a_time(text: &str) -> Fault {
    let shown: String = text.chars().take(60).collect();
    let rule = "occurred_at must be a time such as 2025-10-17T14:23:15Z, or a number of seconds, milliseconds or \
                microseconds since 1970";
    Fault::new(KIND, format!("{rule}; is \"{shown}\""))
}

fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    [whole, fraction]
        .iter()
        .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
}

/// Returns the time of a decimal number, exactly to the nanosecond. Its magnitude decides the unit.
fn epoch(text: &str) -> Option<Timestamp> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.len() > EPOCH_DIGITS_MAX {
        return None;
    }
    let whole: i128 = whole.parse().ok()?;
    let unit = match whole {
        _ if whole < SECONDS_MAX => NANOS_A_SECOND,
        _ if whole < MILLISECONDS_MAX => 1_000_000,
        _ => 1_000,
    };
    let fraction = &fraction[..fraction.len().min(EPOCH_DIGITS_MAX)];
    let scale = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
    let part: i128 = if fraction.is_empty() {
        0
    } else {
        fraction.parse().ok()?
    };
    let nanos = sign * (whole * unit + part * unit / scale);
    Some(Timestamp {
        seconds: i64::try_from(nanos.div_euclid(NANOS_A_SECOND)).ok()?,
        nanos: i32::try_from(nanos.rem_euclid(NANOS_A_SECOND)).ok()?,
    })
}

/// Splits a text into date and time, and the zone if there is one.
fn split_zone(text: &str) -> (&str, Option<&str>) {
    if let Some(local) = text.strip_suffix(['Z', 'z']) {
        return (local, Some("+00"));
    }
    let sign = text
        .bytes()
        .rposition(|b| b == b'+' || b == b'-')
        .filter(|at| *at > DATE_LEN);
    match sign {
        Some(at) => (text[..at].trim_end(), Some(&text[at..])),
        None => (text, None),
    }
}

/// Returns the seconds of an offset: `+02`, `+0200` or `+02:00`.
fn offset_seconds(zone: &str) -> Option<i64> {
    let (sign, digits) = match zone.split_at_checked(1)? {
        ("-", digits) => (-1, digits),
        (_, digits) => (1, digits),
    };
    let (hours, minutes) = match digits.len() {
        2 => (digits, "00"),
        4 => digits.split_at_checked(2)?,
        5 => digits.split_once(':')?,
        _ => return None,
    };
    let number = |text: &str, limit: i64| {
        let is_valid = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
        let number: i64 = is_valid.then(|| text.parse().ok()).flatten()?;
        (number < limit).then_some(number)
    };
    Some(sign * (number(hours, 24)? * 3_600 + number(minutes, 60)? * 60))
}

/// Returns the seconds and nanoseconds since 1970 of a date and time. A leap second is the second after it.
fn local_seconds(local: &str) -> Option<(i64, i32)> {
    let (date, rest) = local.split_at_checked(DATE_LEN)?;
    let time = rest.strip_prefix(['T', 't', ' ', '_'])?;
    let date = NaiveDate::parse_from_str(date, "%Y-%m-%d").ok()?;
    let time = NaiveTime::parse_from_str(time, "%H:%M:%S%.f")
        .or_else(|_| NaiveTime::parse_from_str(time, "%H:%M"))
        .ok()?;
    let midnight = date.and_time(NaiveTime::MIN).and_utc().timestamp();
    let nanos = time.nanosecond(); // a second and more in a leap second
    let seconds = midnight + i64::from(time.num_seconds_from_midnight()) + i64::from(nanos / 1_000_000_000);
    Some((seconds, i32::try_from(nanos % 1_000_000_000).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<(i64, i32)> {
        let time = timestamp(text, false).ok()?;
        Some((time.seconds, time.nanos))
    }

    #[test]
    fn times_with_a_zone_are_read_exactly() {
        const TIME: i64 = 1_760_710_995; // 2025-10-17T14:23:15Z
        for (text, expected) in [
            ("2025-10-17T14:23:15Z", (TIME, 0)),
            ("2025-10-17t14:23:15z", (TIME, 0)),
            ("2025-10-17T14:23:15.5Z", (TIME, 500_000_000)),
            ("2025-10-17T14:23:15.123456789Z", (TIME, 123_456_789)),
            ("2025-10-17 14:23:15+02:00", (TIME - 7_200, 0)),
            ("2025-10-17T14:23:15+0200", (TIME - 7_200, 0)),
            ("2025-10-17T14:23:15 -03", (TIME + 10_800, 0)),
            ("2025-10-17T14:23Z", (TIME - 15, 0)),
            ("2016-12-31T23:59:60Z", (1_483_228_800, 0)),
            ("2016-12-31T23:59:60.25Z", (1_483_228_800, 250_000_000)),
            ("0001-01-01T00:00:00Z", (-62_135_596_800, 0)),
        ] {
            assert_eq!(read(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn the_magnitude_of_an_epoch_number_decides_its_unit() {
        for (text, expected) in [
            ("1760710995", (1_760_710_995, 0)),
            ("1760710995.25", (1_760_710_995, 250_000_000)),
            ("1760710995123", (1_760_710_995, 123_000_000)),
            ("1760710995123456", (1_760_710_995, 123_456_000)),
            ("99999999999", (99_999_999_999, 0)),
            ("100000000000", (100_000_000, 0)),
            ("-0.5", (-1, 500_000_000)),
            ("0", (0, 0)),
        ] {
            assert_eq!(read(text), Some(expected), "{text}");
        }
        assert_eq!(read("1234567890123456789012"), None);
    }

    #[test]
    fn other_texts_are_refused_by_name() {
        for (text, word) in [
            ("2025-10-17T14:23:15", "--assume-utc"),
            ("yesterday", "must be a time"),
            ("2025-10-17", "must be a time"),
            ("12025-01-01T00:00:00Z", "must be a time"),
            ("2025-13-01T00:00:00Z", "must be a time"),
            ("2025-10-17T14:23:15+99:00", "offset"),
            ("", "must be a time"),
            ("é", "must be a time"),
        ] {
            let fault = timestamp(text, false).expect_err(text);
            assert!(fault.text.contains(word), "{text}: {}", fault.text);
        }
        let utc = timestamp("2025-10-17T14:23:15", true).expect("a time");
        assert_eq!(utc.seconds, 1_760_710_995);
    }
}
