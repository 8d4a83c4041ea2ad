//! Which events of a spirit a reader means.

use chrono::{NaiveDate, NaiveTime};
use sha2::{Digest as _, Sha256};

use super::Time;
use super::ids::SpiritId;
use super::meta::Meta;

/// The events of one spirit, of one session or all, that pass a filter.
#[derive(Clone, Debug)]
pub struct Selection {
    pub spirit_id: SpiritId,
    pub session_id: Option<String>,
    pub filter: EventFilter,
}

/// All conditions that are given must hold. The lists are sorted and hold nothing twice.
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    /// Any of these; empty = every type.
    pub event_types: Vec<String>,
    /// Any of these; empty = every role and none.
    pub roles: Vec<String>,
    /// This score or higher; events without one never match.
    pub min_importance: Option<f64>,
    /// Inclusive.
    pub occurred_from: Option<Time>,
    /// Exclusive.
    pub occurred_until: Option<Time>,
    /// JSONB containment.
    pub meta_contains: Option<Meta>,
    pub include_deleted: bool,
}

impl EventFilter {
    /// The lower bound of `occurred_at`, inclusive; the start of year 1 when none was given.
    #[must_use]
    pub fn from(&self) -> Time {
        self.occurred_from.unwrap_or_else(|| start_of_year(1))
    }

    /// The upper bound of `occurred_at`, exclusive; the end of year 9999 when none was given.
    #[must_use]
    pub fn until(&self) -> Time {
        self.occurred_until.unwrap_or_else(|| start_of_year(10_000))
    }
}

/// Midnight of 1 January.
#[must_use]
pub fn start_of_year(year: i32) -> Time {
    NaiveDate::from_ymd_opt(year, 1, 1)
        .expect("1 January exists in every year that chrono knows")
        .and_time(NaiveTime::MIN)
        .and_utc()
}

/// What a cursor belongs to: a hash of RPC, spirit, session, filter and order. A cursor of another
/// query has another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QueryHash(pub [u8; QueryHash::BYTES]);

impl QueryHash {
    /// Length of the hash.
    pub const BYTES: usize = 16;

    /// Of an RPC that reads events.
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
            min_importance,
            occurred_from,
            occurred_until,
            meta_contains,
            include_deleted,
        } = filter;
        let mut parts = Parts::new(rpc);
        parts.add(Some(spirit_id.0.as_bytes()));
        parts.add(session_id.as_deref().map(str::as_bytes));
        parts.add(Some(order.as_bytes()));
        for list in [event_types, roles] {
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
        parts.add(Some(&[u8::from(*include_deleted)]));
        parts.finish()
    }

    /// Of an RPC whose query is told by a few values.
    #[must_use]
    pub fn of(rpc: &str, values: &[Option<&[u8]>]) -> Self {
        let mut parts = Parts::new(rpc);
        for value in values {
            parts.add(*value);
        }
        parts.finish()
    }
}

/// Hashes values so that their borders count and absent differs from empty.
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
