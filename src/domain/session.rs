//! Sessions: the events of a spirit with the same `session_id`, and what callers have set for them.

use chrono::{DateTime, Utc};

use super::Time;
use super::cursor::SessionListPosition;
use super::ids::SpiritId;
use super::meta::Meta;

const MINUTE_MICROS: i64 = 60_000_000;

/// A session. Counts and times are those of its events that are not soft-deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub spirit_id: SpiritId,
    pub session_id: String,
    /// The minute of `last_occurred_at`, which orders lists of sessions.
    pub active_minute: Option<Time>,
    /// `None` if counts were not requested.
    pub event_count: Option<i64>,
    /// `None` if the session has no such event, or if counts were not requested.
    pub first_occurred_at: Option<Time>,
    /// `None` if the session has no such event.
    pub last_occurred_at: Option<Time>,
    /// The highest sequence of its events, soft-deleted ones included; 0 if it has no event.
    pub last_sequence: i64,
    pub title: Option<String>,
    pub owner: Option<String>,
    pub meta: Option<Meta>,
    /// 0 until title, owner or meta were first set.
    pub revision: i64,
    /// `None` at revision 0.
    pub updated_at: Option<Time>,
}

impl Session {
    /// Returns a session that has no event and for which nothing was set.
    #[must_use]
    pub fn empty(spirit_id: SpiritId, session_id: String) -> Self {
        Self {
            spirit_id,
            session_id,
            active_minute: None,
            event_count: Some(0),
            first_occurred_at: None,
            last_occurred_at: None,
            last_sequence: 0,
            title: None,
            owner: None,
            meta: None,
            revision: 0,
            updated_at: None,
        }
    }

    /// Returns the session's position in lists.
    #[must_use]
    pub fn position(&self) -> SessionListPosition {
        SessionListPosition {
            active_minute: self.active_minute,
            session_id: self.session_id.clone(),
        }
    }
}

/// Conditions on sessions; all given conditions must hold.
#[derive(Clone, Debug, Default)]
pub struct SessionFilter {
    pub owner: Option<String>,
    pub session_id_prefix: Option<String>,
    /// Matches sessions whose title contains this text, compared by case folding.
    pub title_contains: Option<String>,
    /// Matches sessions whose `meta` contains this object, as JSONB containment defines it.
    pub meta_contains: Option<Meta>,
    /// Earliest `last_occurred_at`, inclusive.
    pub active_from: Option<Time>,
    /// Latest `last_occurred_at`, exclusive.
    pub active_until: Option<Time>,
    /// Whether sessions without live events match too.
    pub include_empty: bool,
}

impl SessionFilter {
    /// Returns whether the filter has a condition that no index serves.
    #[must_use]
    pub fn is_selective(&self) -> bool {
        let Self {
            owner: _,
            session_id_prefix,
            title_contains,
            meta_contains,
            active_from,
            active_until,
            include_empty: _,
        } = self;
        session_id_prefix.is_some()
            || title_contains.is_some()
            || meta_contains.is_some()
            || active_from.is_some()
            || active_until.is_some()
    }
}

/// The fields of a session that callers set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionFields {
    pub title: Option<String>,
    pub owner: Option<String>,
    pub meta: Option<Meta>,
}

/// Returns the start of the minute (UTC) of a time.
#[must_use]
pub fn minute_of(time: Time) -> Time {
    let micros = time.timestamp_micros();
    let start = micros - micros.rem_euclid(MINUTE_MICROS);
    DateTime::<Utc>::from_timestamp_micros(start).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_starts_at_or_before_its_times_before_1970_too() {
        for (time, minute) in [
            ("2026-01-02T03:04:05.678901Z", "2026-01-02T03:04:00Z"),
            ("2026-01-02T03:04:00Z", "2026-01-02T03:04:00Z"),
            ("1969-12-31T23:59:59.999999Z", "1969-12-31T23:59:00Z"),
            ("0001-01-01T00:00:59Z", "0001-01-01T00:00:00Z"),
        ] {
            let time: Time = time.parse().expect("a time");
            assert_eq!(minute_of(time), minute.parse::<Time>().expect("a minute"));
        }
    }
}
