//! Converts `google.protobuf.Timestamp` to and from times in microseconds.

use chrono::DateTime;
use prost_types::Timestamp;

use crate::domain::Time;
use crate::domain::filter::start_of_year;
use crate::domain::invalid::Fields;

const NANOS_PER_SECOND: i32 = 1_000_000_000;
const NANOS_PER_MICRO: i32 = 1_000;

/// Converts a timestamp to a time, truncated to whole microseconds; `None` outside the years 1 to 9999, or if
/// `nanos` is not 0 to 999,999,999.
#[must_use]
pub fn time_of(timestamp: Timestamp) -> Option<Time> {
    let Timestamp { seconds, nanos } = timestamp;
    if !(0..NANOS_PER_SECOND).contains(&nanos) {
        return None;
    }
    let whole = u32::try_from(nanos - nanos % NANOS_PER_MICRO).ok()?;
    let time = DateTime::from_timestamp(seconds, whole)?;
    (start_of_year(1)..start_of_year(10_000))
        .contains(&time)
        .then_some(time)
}

/// Converts a time to a timestamp.
#[must_use]
pub fn timestamp_of(time: Time) -> Timestamp {
    Timestamp {
        seconds: time.timestamp(),
        nanos: i32::try_from(time.timestamp_subsec_nanos()).unwrap_or(0),
    }
}

/// Converts the timestamp of a field; an invalid timestamp is a violation.
pub(super) fn time(fields: &mut Fields, field: &str, timestamp: Timestamp) -> Time {
    time_of(timestamp).unwrap_or_else(|| {
        fields.refuse(
            field,
            "must be a time of the years 1 to 9999 with nanos from 0 to 999999999",
        );
        Time::UNIX_EPOCH
    })
}
