//! Refusals: the reasons for which a create or an edit is not carried out.

use super::ids::{EventId, SpiritId};
use super::invalid::Invalid;

/// The reason for which a request, or one item of it, was refused. It changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The spirit is unknown, hidden from the caller, or soft-deleted.
    #[error("spirit {0} does not exist or is deleted")]
    SpiritNotFound(SpiritId),
    /// The spirit is not soft-deleted, so it cannot be purged.
    #[error("spirit {0} is not deleted")]
    SpiritNotDeleted(SpiritId),
    /// The event is unknown, of another spirit, hidden from the caller, or soft-deleted.
    #[error("event {0} does not exist or is deleted")]
    EventNotFound(EventId),
    /// The session has no event, and nothing was set for it; or the spirit is hidden from the caller.
    #[error("session {0:?} does not exist")]
    SessionNotFound(String),
    /// The deletion selects more than the maximum number of events.
    #[error("more than {max} events are selected")]
    TooManyEvents {
        /// The maximum.
        max: i64,
    },
    /// The dedupe key is taken.
    #[error("the dedupe key is taken")]
    Duplicate {
        /// The dedupe key.
        dedupe_key: String,
        /// The event that has the dedupe key; `None` if it is an earlier item of the same refused batch.
        existing: Option<EventId>,
        /// Whether the event that has the key differs from the request in type, content, session or source, or in
        /// `occurred_at` if the caller gave one.
        different: bool,
    },
    /// The stored revision is not the `expected_revision`.
    #[error("expected revision {expected}, found {actual}")]
    RevisionMismatch {
        /// The value that the caller gave.
        expected: i64,
        /// The stored value.
        actual: i64,
    },
    /// The spirit's last sequence is not the `expected_last_sequence`.
    #[error("expected last sequence {expected}, found {actual}")]
    SequenceMismatch {
        /// The value that the caller gave.
        expected: i64,
        /// The stored value.
        actual: i64,
    },
    /// The session's last sequence is not the `expected_session_last_sequence`.
    #[error("expected last sequence {expected} of session {session_id:?}, found {actual}")]
    SessionSequenceMismatch {
        /// The session.
        session_id: String,
        /// The value that the caller gave.
        expected: i64,
        /// The stored value.
        actual: i64,
    },
    /// Changes after the position of a reader are no longer stored.
    #[error("changes before {oldest} are no longer stored")]
    ChangesGone {
        /// The oldest change after the position that is stored, or the next one to be drawn.
        oldest: i64,
    },
    /// A field is invalid: together with the stored data, or in one item of a batch or of an ingest stream.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}
