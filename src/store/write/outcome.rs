//! The result of a flush: an outcome for each job, or a failure of the whole flush.

use std::sync::Arc;

use super::job::Decision;
use crate::domain::admission::Admitted;
use crate::domain::event::NewEvent;
use crate::domain::ids::SpiritId;
use crate::domain::refusal::Refusal;
use crate::store::pg::error::StoreError;

/// The outcome of a job in a flush that was committed.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The job was decided and its decision committed.
    Decided(Decision),
    /// The job was not decided, because another transaction has locked this spirit.
    Locked(SpiritId),
    /// The job was not decided, because the fast path could not store it.
    Undecided,
}

impl Outcome {
    /// Returns the new events of the job, each with its sequence.
    pub(super) fn admitted(&self) -> impl Iterator<Item = (&Arc<NewEvent>, i64)> {
        let results = match self {
            Self::Decided(decision) => decision.verdict.as_deref().unwrap_or_default(),
            Self::Locked(_) | Self::Undecided => &[],
        };
        results.iter().filter_map(|result| match result {
            Ok(Admitted::New { event, sequence }) => Some((event, *sequence)),
            _ => None,
        })
    }

    /// Returns the number of items whose dedupe key was taken.
    pub(super) fn duplicates(&self) -> usize {
        let Self::Decided(decision) = self else {
            return 0;
        };
        let is_duplicate_refusal = |refusal: &Refusal| matches!(refusal, Refusal::Duplicate { .. });
        match &decision.verdict {
            Ok(results) => {
                let is_duplicate = |result: &&Result<Admitted, Refusal>| match result {
                    Ok(Admitted::Duplicate { .. }) => true,
                    Ok(Admitted::New { .. }) => false,
                    Err(refusal) => is_duplicate_refusal(refusal),
                };
                results.iter().filter(is_duplicate).count()
            }
            Err(failures) => failures
                .iter()
                .filter(|(_, refusal)| is_duplicate_refusal(refusal))
                .count(),
        }
    }
}

/// The failure of a flush.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: StoreError,
    /// Whether it is certain that nothing was stored.
    pub(super) uncommitted: bool,
}

impl Failure {
    /// Creates the failure of a flush that has certainly stored nothing.
    pub(super) fn uncommitted(error: StoreError) -> Self {
        Self {
            error,
            uncommitted: true,
        }
    }

    /// Creates the failure of a flush that may have been committed.
    pub(super) fn unknown(error: StoreError) -> Self {
        Self {
            error,
            uncommitted: false,
        }
    }

    /// Creates the failure of a statement that commits. It is uncommitted only if PostgreSQL itself reported
    /// an error that rules out a commit.
    pub(super) fn from_commit(error: sqlx::Error) -> Self {
        let is_reported = matches!(error, sqlx::Error::Database(_));
        match StoreError::from(error) {
            error @ (StoreError::Bug(_)
            | StoreError::BadValue(_)
            | StoreError::TimedOut
            | StoreError::ReadOnly(_))
                if is_reported =>
            {
                Self::uncommitted(error)
            }
            error => Self::unknown(error),
        }
    }

    /// Returns whether the same flush can be retried on a new connection without storing an event twice.
    pub(super) fn is_retriable(&self) -> bool {
        self.uncommitted && matches!(self.error, StoreError::Unavailable(_) | StoreError::ReadOnly(_))
    }

    /// Returns whether the database rejected the data of a job and nothing was stored.
    pub(super) fn is_data_error(&self) -> bool {
        self.uncommitted && self.error.is_of_statement()
    }
}
