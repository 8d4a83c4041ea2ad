//! Bulk soft deletes and their restores.

use super::Time;
use super::filter::Selection;
use super::ids::SpiritId;

/// A soft delete of the selected events that are live.
#[derive(Clone, Debug)]
pub struct Deletion {
    /// Its filter does not include deleted events.
    pub selection: Selection,
    /// Only events with a higher sequence are deleted.
    pub after_sequence: i64,
    /// The spirit's `last_sequence` that the deletion requires; `None` = any.
    pub expected_last_sequence: Option<i64>,
    /// The last sequence of the session that the deletion requires; `None` = any. Only with a session.
    pub expected_session_last_sequence: Option<i64>,
    /// Prefix of the API key with which the events are deleted, for their history.
    pub changed_by: Option<String>,
}

/// The outcome of a [`Deletion`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Number of events that were deleted.
    pub count: i64,
    /// Identifies the deletion within its spirit; `None` if no event was deleted.
    pub deleted_at: Option<Time>,
}

/// A restore of the events that a deletion marked.
#[derive(Clone, Debug)]
pub struct Restoration {
    pub spirit_id: SpiritId,
    /// The time of the deletion.
    pub deleted_at: Time,
    /// Restores the events of this session only; `None` = all.
    pub session_id: Option<String>,
    /// Prefix of the API key with which the events are restored, for their history.
    pub changed_by: Option<String>,
}
