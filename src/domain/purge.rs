//! Purges: removal of events for good, by request or by the retention of a spirit.

use std::time::Duration;

use uuid::Uuid;

use super::Time;
use super::ids::{EventId, SpiritId};

/// Maximum number of events that a purge names by id.
pub const PURGED_IDS_MAX: usize = 1_000;
/// Maximum number of characters of the reason of a purge.
pub const PURGE_REASON_CHARS_MAX: usize = 255;
/// The requester of the purges of retention, and the author of their changes.
pub const RETENTION_REQUESTER: &str = "retention";

/// How long the events and changes of a spirit are kept; `None` = for good. Whole microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Maximum age of events, by `created_at`.
    pub max_age: Option<Duration>,
    /// Maximum age of soft-deleted events, by `deleted_at`.
    pub deleted_max_age: Option<Duration>,
    /// Maximum age of changes, by `changed_at`.
    pub history_max_age: Option<Duration>,
}

impl Retention {
    /// The shortest age.
    pub const AGE_MIN: Duration = Duration::from_secs(60 * 60);
    /// The longest age, 100 years of 365.25 days.
    pub const AGE_MAX: Duration = Duration::from_secs(36_525 * 24 * 60 * 60);

    /// Returns whether everything is kept for good.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The events that a purge selects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selected {
    /// Events by id.
    EventIds(Vec<EventId>),
    /// The events of a session.
    Session(String),
    /// The events of all sessions with this owner.
    SessionOwner(String),
    /// Events with `created_at` before this time.
    CreatedUntil(Time),
    /// Soft-deleted events with `deleted_at` before this time.
    DeletedUntil(Time),
    /// Events with this author.
    Author(String),
    /// All events.
    All,
}

impl Selected {
    /// Returns the kind of the selection.
    #[must_use]
    pub fn kind(&self) -> PurgeSelection {
        match self {
            Self::EventIds(_) => PurgeSelection::EventIds,
            Self::Session(_) => PurgeSelection::SessionId,
            Self::SessionOwner(_) => PurgeSelection::SessionOwner,
            Self::CreatedUntil(_) => PurgeSelection::CreatedUntil,
            Self::DeletedUntil(_) => PurgeSelection::DeletedUntil,
            Self::Author(_) => PurgeSelection::Author,
            Self::All => PurgeSelection::All,
        }
    }
}

/// A request to purge events.
#[derive(Clone, Debug)]
pub struct EventPurge {
    pub spirit_id: SpiritId,
    pub selected: Selected,
    pub reason: Option<String>,
    /// Prefix of the API key of the request.
    pub requested_by: Option<String>,
    /// Whether the events are counted only.
    pub is_dry_run: bool,
}

/// A request to purge a soft-deleted spirit.
#[derive(Clone, Debug)]
pub struct SpiritPurge {
    pub spirit_id: SpiritId,
    pub reason: Option<String>,
    /// Prefix of the API key of the request.
    pub requested_by: Option<String>,
}

/// The way in which the events of a purge were selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PurgeSelection {
    EventIds,
    SessionId,
    SessionOwner,
    CreatedUntil,
    DeletedUntil,
    Author,
    All,
    /// The spirit itself was purged.
    Spirit,
    /// By the retention of the spirit.
    Retention,
}

impl PurgeSelection {
    /// All selections.
    pub const ALL: [Self; 9] = [
        Self::EventIds,
        Self::SessionId,
        Self::SessionOwner,
        Self::CreatedUntil,
        Self::DeletedUntil,
        Self::Author,
        Self::All,
        Self::Spirit,
        Self::Retention,
    ];

    /// Returns the name that the database and metrics use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::EventIds => "event_ids",
            Self::SessionId => "session_id",
            Self::SessionOwner => "session_owner",
            Self::CreatedUntil => "created_until",
            Self::DeletedUntil => "deleted_until",
            Self::Author => "author",
            Self::All => "all",
            Self::Spirit => "spirit",
            Self::Retention => "retention",
        }
    }

    /// Returns the selection with this name; `None` if the name is unknown.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|selection| selection.name() == name)
    }
}

/// A stored purge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Purge {
    pub id: Uuid,
    pub spirit_id: SpiritId,
    pub selection: PurgeSelection,
    pub reason: Option<String>,
    pub requested_by: Option<String>,
    pub started_at: Time,
    /// `None` while the purge runs, and if it was broken off.
    pub finished_at: Option<Time>,
    pub purged_count: i64,
    /// `None` if no event was purged.
    pub lowest_sequence: Option<i64>,
    /// `None` if no event was purged.
    pub highest_sequence: Option<i64>,
}

impl Purge {
    /// Returns the position in a list of purges.
    #[must_use]
    pub fn position(&self) -> PurgePosition {
        PurgePosition {
            started_at: self.started_at,
            id: self.id,
        }
    }
}

/// A position in a list of purges, newest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PurgePosition {
    pub started_at: Time,
    pub id: Uuid,
}
