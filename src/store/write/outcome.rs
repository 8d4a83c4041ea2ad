//! What a flush comes to: an outcome for each job, or a failure of all.

use std::sync::Arc;

use super::job::Decided;
use crate::domain::admission::Admitted;
use crate::domain::event::NewEvent;
use crate::domain::ids::SpiritId;
use crate::domain::refusal::Refusal;
use crate::store::pg::error::StoreError;

/// What became of a job.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Decided, and committed as decided.
    Decided(Decided),
    /// Untouched: another transaction holds this spirit.
    Locked(SpiritId),
    /// Untouched: a flush that decides nothing could not store it.
    Undecided,
}

impl Outcome {
    /// The events that it stores, each with its sequence.
    pub(super) fn admitted(&self) -> impl Iterator<Item = (&Arc<NewEvent>, i64)> {
        let results = match self {
            Self::Decided(decided) => decided.verdict.as_deref().unwrap_or_default(),
            Self::Locked(_) | Self::Undecided => &[],
        };
        results.iter().filter_map(|result| match result {
            Ok(Admitted::New { event, sequence }) => Some((event, *sequence)),
            _ => None,
        })
    }

    /// Items whose key was taken.
    pub(super) fn duplicates(&self) -> usize {
        let Self::Decided(decided) = self else {
            return 0;
        };
        let is_duplicate = |refusal: &Refusal| matches!(refusal, Refusal::Duplicate { .. });
        match &decided.verdict {
            Ok(results) => {
                let is_duplicate = |result: &&Result<Admitted, Refusal>| match result {
                    Ok(Admitted::Duplicate { .. }) => true,
                    Ok(Admitted::New { .. }) => false,
                    Err(refusal) => is_duplicate(refusal),
                };
                results.iter().filter(is_duplicate).count()
            }
            Err(failures) => failures
                .iter()
                .filter(|(_, refusal)| is_duplicate(refusal))
                .count(),
        }
    }
}

/// A flush that failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: StoreError,
    /// Whether it is certain that nothing was stored.
    pub(super) uncommitted: bool,
}

impl Failure {
    pub(super) fn uncommitted(error: StoreError) -> Self {
        Self {
            error,
            uncommitted: true,
        }
    }

    /// Of a statement that commits: certain only where the database says so itself.
    pub(super) fn of_commit(error: sqlx::Error) -> Self {
        let said = matches!(error, sqlx::Error::Database(_));
        match StoreError::from(error) {
            error @ (StoreError::Bug(_) | StoreError::TimedOut | StoreError::ReadOnly(_)) if said => {
                Self::uncommitted(error)
            }
            error => Self::unknown(error),
        }
    }

    /// Whether the same flush may succeed on a new connection without storing anything twice.
    pub(super) fn is_retriable(&self) -> bool {
        self.uncommitted && matches!(self.error, StoreError::Unavailable(_) | StoreError::ReadOnly(_))
    }

    /// Whether the database rejected the data of some job, and nothing was stored.
    pub(super) fn is_of_the_data(&self) -> bool {
        self.uncommitted && matches!(self.error, StoreError::Bug(_))
    }

    pub(super) fn unknown(error: StoreError) -> Self {
        Self {
            error,
            uncommitted: false,
        }
    }
}
