//! Refusals: why the stored data does not allow a valid request.

use super::ids::{EventId, SpiritId};
use super::invalid::Invalid;

/// The reason why a valid request was refused. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The spirit is unknown, hidden from the caller, or soft-deleted.
    #[error("spirit {0} does not exist or is deleted")]
    SpiritNotFound(SpiritId),
    /// The event is unknown, of another spirit, hidden from the caller, or soft-deleted.
    #[error("event {0} does not exist or is deleted")]
    EventNotFound(EventId),
    /// The dedupe key is taken.
    #[error("the dedupe key is taken")]
    Duplicate {
        /// The dedupe key.
        dedupe_key: String,
        /// The event that has the key; absent if it is an earlier item of the same refused batch.
        existing: Option<EventId>,
    },
    /// `expected_revision` does not hold.
    #[error("expected revision {expected}, found {actual}")]
    RevisionMismatch {
        /// The value that the caller gave.
        expected: i64,
        /// The stored value.
        actual: i64,
    },
    /// `expected_last_sequence` does not hold.
    #[error("expected last sequence {expected}, found {actual}")]
    SequenceMismatch {
        /// The value that the caller gave.
        expected: i64,
        /// The stored value.
        actual: i64,
    },
    /// A field is invalid in combination with the stored data.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}
