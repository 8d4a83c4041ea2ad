//! Selections of events and their filters, and the hash that identifies a query in its cursors.

use chrono::{NaiveDate, NaiveTime};
use sha2::{Digest as _, Sha256};

use super::Time;
use super::ids::SpiritId;
use super::meta::Meta;

/// Path of [`EventFilter::meta_matches`] in the requests that have a filter.
pub const META_MATCHES: &str = "filter.meta_matches";

/// The events of a spirit, or of one of its sessions, that match a filter.
#[derive(Clone, Debug)]
pub struct Selection {
    pub spirit_id: SpiritId,
    pub session_id: Option<String>,
    pub filter: EventFilter,
}

/// Conditions on events; all given conditions must hold. Lists are sorted and have no duplicates.
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    /// Matches events of any of these types; empty = every type.
    pub event_types: Vec<String>,
    /// Matches events of any of these roles; empty = all events, with and without a role.
    pub roles: Vec<String>,
    /// Matches events of any of these authors; empty = all events, with and without an author.
    pub authors: Vec<String>,
    /// Minimum score. Events without a score never match.
    pub min_importance: Option<f64>,
    /// Earliest time, inclusive.
    pub occurred_from: Option<Time>,
    /// Latest time, exclusive.
    pub occurred_until: Option<Time>,
    /// Matches events whose `meta` contains this object, as JSONB containment defines it.
    pub meta_contains: Option<Meta>,
    /// Matches events whose `meta` satisfies this SQL/JSON path, which PostgreSQL has parsed, as `@@` defines it.
    pub meta_matches: Option<String>,
    /// Whether soft-deleted events match too.
    pub include_deleted: bool,
}

impl EventFilter {
    /// Returns whether the filter has no condition.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self {
            event_types,
            roles,
            min_importance,
            occurred_from,
            occurred_until,
            meta_contains,
            include_deleted: _,
            authors,
            meta_matches,
        } = self;
        event_types.is_empty()
            && roles.is_empty()
            && min_importance.is_none()
            && occurred_from.is_none()
            && occurred_until.is_none()
            && meta_contains.is_none()
            && authors.is_empty()
            && meta_matches.is_none()
    }

    /// Returns the inclusive lower bound of `occurred_at`; the start of year 1 if none is given.
    #[must_use]
    pub fn from(&self) -> Time {
        self.occurred_from.unwrap_or_else(|| start_of_year(1))
    }

    /// Returns whether the filter has a condition on `meta`, which may take long for each event.
    #[must_use]
    pub fn reads_meta(&self) -> bool {
        self.meta_contains.is_some() || self.meta_matches.is_some()
    }

    /// Returns the exclusive upper bound of `occurred_at`; the end of year 9999 if none is given.
    #[must_use]
    pub fn until(&self) -> Time {
        self.occurred_until.unwrap_or_else(|| start_of_year(10_000))
    }
}

/// Returns midnight UTC of 1 January of the year.
#[must_use]
pub fn start_of_year(year: i32) -> Time {
    NaiveDate::from_ymd_opt(year, 1, 1)
        .expect("chrono represents 1 January of this year")
        .and_time(NaiveTime::MIN)
        .and_utc()
}

/// Identifies the query that a cursor belongs to: a hash of the RPC, the conditions and the order. Views and
/// page sizes are not part of the query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QueryHash(pub [u8; QueryHash::BYTES]);

impl QueryHash {
    /// Length of the hash in bytes.
    pub const BYTES: usize = 16;

    /// Hashes a query that reads events.
    #[must_use]
    pub fn of_events(rpc: &str, selection: &Selection, order: &str) -> Self {
        let Selection {
            spirit_id,
            session_id,
            filter,
        } = selection;
        let EventFilter {
            event_types,
            roles,
            authors,
            min_importance,
            occurred_from,
            occurred_until,
            meta_contains,
            meta_matches,
            include_deleted,
        } = filter;
        let mut parts = Parts::new(rpc);
        parts.add(Some(spirit_id.0.as_bytes()));
        parts.add(session_id.as_deref().map(str::as_bytes));
        parts.add(Some(order.as_bytes()));
        for list in [event_types, roles, authors] {
            parts.add(Some(&list.len().to_be_bytes()));
            for value in list {
                parts.add(Some(value.as_bytes()));
            }
        }
        parts.add(
            min_importance
                .map(f64::to_be_bytes)
                .as_ref()
                .map(<[u8; 8]>::as_slice),
        );
        for time in [occurred_from, occurred_until] {
            parts.add(
                time.map(|time| time.timestamp_micros().to_be_bytes())
                    .as_ref()
                    .map(<[u8; 8]>::as_slice),
            );
        }
        parts.add(meta_contains.as_ref().map(|meta| meta.as_json().as_bytes()));
        parts.add(meta_matches.as_deref().map(str::as_bytes));
        parts.add(Some(&[u8::from(*include_deleted)]));
        parts.finish()
    }

    /// Hashes a query that is identified by its RPC and these values.
    #[must_use]
    pub fn of(rpc: &str, values: &[Option<&[u8]>]) -> Self {
        let mut parts = Parts::new(rpc);
        for value in values {
            parts.add(*value);
        }
        parts.finish()
    }
}

/// Hashes a list of values with their lengths, so that no two lists hash the same bytes and an absent value
/// differs from an empty one.
struct Parts(Sha256);

impl Parts {
    fn new(rpc: &str) -> Self {
        let mut parts = Self(Sha256::new());
        parts.add(Some(rpc.as_bytes()));
        parts
    }

    fn add(&mut self, value: Option<&[u8]>) {
        match value {
            None => self.0.update([0]),
            Some(bytes) => {
                self.0.update([1]);
                self.0.update((bytes.len() as u64).to_be_bytes());
                self.0.update(bytes);
            }
        }
    }

    fn finish(self) -> QueryHash {
        let mut hash = [0; QueryHash::BYTES];
        hash.copy_from_slice(&self.0.finalize()[..QueryHash::BYTES]);
        QueryHash(hash)
    }
}
