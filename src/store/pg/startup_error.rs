//! Why a database cannot be used at start.

use super::error::{StoreError, chain};

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StartupError {
    /// Waiting does not help: the database belongs to a newer binary.
    #[error(
        "the database has migration {0}, which this binary does not know: it was made by a newer version; use that version or a later one"
    )]
    Newer(i64),
    /// Waiting does not help: the schema is not what the migrations made.
    #[error(
        "migration {0} was applied with another content than this binary carries; restore the database or use the binary that made it"
    )]
    Changed(i64),
    /// Waiting does not help: the connections are not to be used as they are.
    #[error(
        "prepared statements get mixed up between connections ({0}): a pooler in transaction mode stands before \
         PostgreSQL; start with --pooler transaction (EVENTS_POOLER=transaction), or let the pooler follow \
         prepared statements (PgBouncer 1.21 or newer, max_prepared_statements)"
    )]
    MixedUp(String),
    /// Waiting does not help: a pooler keeps no connection for a transaction.
    #[error(
        "a pooler in statement mode stands before PostgreSQL ({0}), and this service needs transactions: give PgBouncer \
         pool_mode=transaction and start with --pooler transaction (EVENTS_POOLER=transaction), or pool_mode=session; \
         pool_mode=statement is not supported"
    )]
    NoTransactions(String),
    /// Waiting does not help: a pooler refuses the settings of our sessions.
    #[error(
        "a pooler stands before PostgreSQL and refuses our connections ({0}): start with --pooler transaction \
         (EVENTS_POOLER=transaction), which works with every pooler; or let PgBouncer pass them with \
         ignore_startup_parameters = options, where it is in session mode or follows prepared statements"
    )]
    SettingsRefused(String),
    /// Waiting does not help: somebody has to migrate.
    #[error(
        "the schema is at version {found}, this binary needs {needed}, and a pooler stands before PostgreSQL: set \
         MIGRATION_DATABASE_URL to PostgreSQL itself, or run `elephantasm-events migrate` there first"
    )]
    Outdated { found: i64, needed: i64 },
    /// The database is away, or refused; trying again can help.
    #[error("could not migrate: {0}")]
    Failed(String),
}

impl StartupError {
    /// Whether a retry can succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Failed(_))
    }
}

impl From<sqlx::migrate::MigrateError> for StartupError {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        use sqlx::migrate::MigrateError as E;
        match error {
            E::VersionMissing(version) => Self::Newer(version),
            E::VersionMismatch(version) => Self::Changed(version),
            other => Self::Failed(chain(&other)),
        }
    }
}

impl From<sqlx::Error> for StartupError {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(chain(&error))
    }
}

impl From<StoreError> for StartupError {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.to_string())
    }
}
