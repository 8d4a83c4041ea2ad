//! Why a well-formed request could not be carried out: the state of the world says no.

use super::ids::{EventId, SpiritId};
use super::invalid::Invalid;

/// A request that the data refuses. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Unknown, or soft-deleted where that hides it.
    #[error("spirit {0} does not exist or is deleted")]
    SpiritNotFound(SpiritId),
    /// Unknown, of another spirit, or soft-deleted where that hides it.
    #[error("event {0} does not exist or is deleted")]
    EventNotFound(EventId),
    /// The dedupe key is taken.
    #[error("the dedupe key is taken")]
    Duplicate {
        /// The key.
        dedupe_key: String,
        /// Who has it; absent when it is an earlier item of the same refused batch.
        existing: Option<EventId>,
    },
    /// `expected_revision` does not hold.
    #[error("expected revision {expected}, found {actual}")]
    RevisionMismatch {
        /// What the caller named.
        expected: i64,
        /// What is stored.
        actual: i64,
    },
    /// `expected_last_sequence` does not hold.
    #[error("expected last sequence {expected}, found {actual}")]
    SequenceMismatch {
        /// What the caller named.
        expected: i64,
        /// What is stored.
        actual: i64,
    },
    /// A field turned out bad only against what is stored.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}
