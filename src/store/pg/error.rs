//! What can go wrong below the service: few variants, one for each different reaction.

use std::fmt::Write as _;

use sqlx::error::DatabaseError;

use crate::domain::refusal::Refusal;
use crate::panics::Panicked;

/// Why the store did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The data says no; nothing was changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// An atomic batch was refused; nothing was changed. Failing items by index, lowest first.
    #[error("{} item(s) of the batch refused", .0.len())]
    BatchRefused(Vec<(usize, Refusal)>),
    /// The queue is full; nothing was changed and a retry helps.
    #[error("the queue of writes is full")]
    Overloaded,
    /// The store was told to close.
    #[error("the store is closing")]
    Closing,
    /// The statement ran into its time limit and was stopped.
    #[error("the statement took too long")]
    TimedOut,
    /// The reader of a stream took nothing for longer than it may.
    #[error("the reader has stalled")]
    Stalled,
    /// The database cannot be reached or does not take the work now. A write's outcome may be
    /// unknown.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// The database takes no writes now: a standby, or a primary turned read-only. Nothing was changed.
    #[error("the database is read-only: {0}")]
    ReadOnly(String),
    /// A bug, or a database that is not as the migrations left it.
    #[error("the database refused what it should not: {0}")]
    Bug(String),
}

/// `SQLSTATE`s, by prefix, after which the same call can succeed later.
const PASSING: [&str; 8] = [
    "08",    // connection exception
    "40",    // transaction rollback: serialization failure, deadlock
    "53",    // insufficient resources: connections, memory, disk
    "55P03", // lock not available
    "57P01", // admin shutdown
    "57P02", // crash shutdown
    "57P03", // cannot connect now: starting up, shutting down, in recovery
    "58030", // input or output error
];
const QUERY_CANCELED: &str = "57014";
/// A standby, or a primary turned read-only.
const READ_ONLY: &str = "25006";

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error as E;
        match &error {
            E::Database(database) => match database.code().as_deref() {
                Some(QUERY_CANCELED) => Self::TimedOut,
                Some(READ_ONLY) => Self::ReadOnly(chain(&error)),
                Some(code) if PASSING.iter().any(|prefix| code.starts_with(prefix)) => {
                    Self::Unavailable(chain(&error))
                }
                _ => Self::Bug(chain(&error)),
            },
            E::Io(_) | E::Tls(_) | E::PoolTimedOut | E::PoolClosed | E::WorkerCrashed => {
                Self::Unavailable(chain(&error))
            }
            _ => Self::Bug(chain(&error)),
        }
    }
}

/// Of a write the outcome is unknown, unless it is known where it panicked.
impl From<Panicked> for StoreError {
    fn from(panicked: Panicked) -> Self {
        Self::Bug(panicked.to_string())
    }
}

/// Who was to answer is gone without having done so: nothing but a panic does that.
pub(in crate::store) fn unanswered<E>(_dropped: E) -> StoreError {
    Panicked.into()
}

/// Whether the connection is of no use after this error: the server closes it, since it is shutting down or
/// was told to, or takes no writes, and the next connection may lead to the one that does.
pub(super) fn ends_connection(error: &dyn DatabaseError) -> bool {
    error
        .code()
        .is_some_and(|code| code.starts_with("57P") || code == READ_ONLY)
}

/// The error and its sources, for the log.
pub(in crate::store) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        write!(text, ": {cause}").expect("writing to a String cannot fail");
        source = cause.source();
    }
    text
}
