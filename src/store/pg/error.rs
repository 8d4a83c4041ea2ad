//! Errors of the store: one variant for each way in which the calling code has to react.

use std::fmt::Write as _;

use sqlx::error::DatabaseError;
use sqlx::postgres::PgDatabaseError;

use crate::domain::filter::{EventFilter, META_MATCHES};
use crate::domain::invalid::Invalid;
use crate::domain::refusal::Refusal;
use crate::panics::Panicked;

/// `SQLSTATE` prefixes of transient errors: the same call can succeed later.
const TRANSIENT: [&str; 8] = [
    "08",    // connection exception
    "40",    // transaction rollback: serialization failure, deadlock
    "53",    // insufficient resources: connections, memory, disk
    "55P03", // lock not available
    "57P01", // admin shutdown
    "57P02", // crash shutdown
    "57P03", // cannot connect now: starting up, shutting down, in recovery
    "58030", // input or output error
];
/// `SQLSTATE` prefixes of errors in a value.
const BAD_VALUE: [&str; 3] = [
    "22",    // data exception
    "42601", // syntax error, also in a SQL/JSON path
    "54001", // statement too complex: the stack is too deep
];
const QUERY_CANCELED: &str = "57014";
/// `read_only_sql_transaction`: a standby, or a primary turned read-only.
const READ_ONLY: &str = "25006";

/// The error of a store operation.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The request conflicts with the stored data; nothing was changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// An atomic batch was refused; nothing was changed. Holds the failing items by index, lowest first.
    #[error("{} item(s) of the batch refused", .0.len())]
    BatchRefused(Vec<(usize, Refusal)>),
    /// The write queue is full; nothing was changed. A retry after a pause can succeed.
    #[error("the write queue is full")]
    Overloaded,
    /// No connection of the pool became free in time; nothing was changed. A retry after a pause can succeed.
    #[error("all connections are in use")]
    PoolExhausted,
    /// The store is closing and takes no further work.
    #[error("the store is closing")]
    Closing,
    /// The statement reached its timeout and was cancelled.
    #[error("the statement timed out")]
    TimedOut,
    /// The client of a stream took no item within the stall limit.
    #[error("the client of the stream has stalled")]
    Stalled,
    /// The database cannot be reached or cannot do the work now. The outcome of a write may be unknown.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// The database is read-only: a standby, or a primary turned read-only. Nothing was changed.
    #[error("the database is read-only: {0}")]
    ReadOnly(String),
    /// PostgreSQL cannot parse or evaluate a value of the statement; nothing was changed. Holds PostgreSQL's reason.
    #[error("PostgreSQL refused a value: {0}")]
    BadValue(String),
    /// A bug, or a schema that differs from the one that the migrations create.
    #[error("unexpected database error: {0}")]
    Bug(String),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error as E;
        match &error {
            E::Database(database) => match database.code().as_deref() {
                Some(QUERY_CANCELED) => Self::TimedOut,
                Some(READ_ONLY) => Self::ReadOnly(chain(&error)),
                Some(code) if TRANSIENT.iter().any(|prefix| code.starts_with(prefix)) => {
                    Self::Unavailable(chain(&error))
                }
                Some(code) if is_bad_value(code, database.as_ref()) => {
                    Self::BadValue(database.message().to_owned())
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

impl StoreError {
    /// Returns whether the statement itself is at fault, or a value in it, and not the state of the database.
    pub(in crate::store) fn is_of_statement(&self) -> bool {
        matches!(self, Self::Bug(_) | Self::BadValue(_))
    }

    /// Returns the error of a statement with this filter. PostgreSQL reports some errors in the evaluation of a path,
    /// although `@@` suppresses most.
    pub(in crate::store) fn in_filter(self, filter: &EventFilter) -> Self {
        match self {
            Self::BadValue(reason) if filter.meta_matches.is_some() => {
                let rule = format_args!("cannot be evaluated: {reason}");
                Refusal::from(Invalid::field(META_MATCHES, rule)).into()
            }
            error => error,
        }
    }
}

/// Returns whether a statement that is known to be correct failed because of a value.
fn is_bad_value(code: &str, error: &dyn DatabaseError) -> bool {
    // Comparisons of times with and without a time zone in a SQL/JSON path have the code of several other errors.
    let is_time_zone = || {
        let error = error.try_downcast_ref::<PgDatabaseError>();
        error.is_some_and(|error| match error.routine() {
            Some("checkTimezoneIsUsedForCast") => true,
            // Citus repeats code and message of a worker's error, but not its routine.
            Some("ReportResultError") => error.message().ends_with("without time zone usage"),
            _ => false,
        })
    };
    BAD_VALUE.iter().any(|prefix| code.starts_with(prefix)) || code == "0A000" && is_time_zone()
}

/// The outcome of a write that panicked is unknown, unless the caller knows where the panic happened.
impl From<Panicked> for StoreError {
    fn from(panicked: Panicked) -> Self {
        Self::Bug(panicked.to_string())
    }
}

/// Converts the error of waiting for a task that ended without a result, which only a panic causes.
pub(in crate::store) fn unanswered<E>(_error: E) -> StoreError {
    Panicked.into()
}

/// Returns whether the connection must not be used after this error: PostgreSQL closes it (shutdown, or the
/// backend was terminated), or the database is read-only and a new connection may lead to the primary.
pub(super) fn ends_connection(error: &dyn DatabaseError) -> bool {
    error
        .code()
        .is_some_and(|code| code.starts_with("57P") || code == READ_ONLY)
}

/// Formats the error and its sources in one line.
pub(in crate::store) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        write!(text, ": {cause}").expect("writing to a String cannot fail");
        source = cause.source();
    }
    text
}
