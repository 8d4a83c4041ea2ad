//! Errors of checking and migrating the database at start.

use super::error::{StoreError, chain};

/// The reason why the database cannot be used. Only [`Failed`](Self::Failed) is transient.
#[derive(Debug, thiserror::Error)]
pub enum StartupError {
    /// The database has a migration that this binary does not have, so it belongs to a newer version.
    #[error(
        "the database has migration {0}, which this binary does not have: a newer version made it; use that version \
         or a later one"
    )]
    Newer(i64),
    /// An applied migration differs from the migration of the same version in this binary.
    #[error(
        "migration {0} was applied with another content than this binary carries; restore the database or use the \
         binary that made it"
    )]
    Changed(i64),
    /// Connections do not keep their prepared statements apart.
    #[error(
        "prepared statements get mixed up between connections ({0}): there is a pooler in transaction mode in front of \
         PostgreSQL; start with --pooler transaction (EVENTS_POOLER=transaction), or use a pooler that supports \
         prepared statements (PgBouncer 1.21 or newer, max_prepared_statements)"
    )]
    StatementsMixedUp(String),
    /// A pooler in statement mode does not allow transactions.
    #[error(
        "there is a pooler in statement mode in front of PostgreSQL ({0}), and this service needs transactions: set \
         PgBouncer to pool_mode=transaction and start with --pooler transaction (EVENTS_POOLER=transaction), or use \
         pool_mode=session; pool_mode=statement is not supported"
    )]
    NoTransactions(String),
    /// A pooler refuses the settings that the connections are opened with.
    #[error(
        "a pooler in front of PostgreSQL refuses connections with settings ({0}): start with --pooler transaction \
         (EVENTS_POOLER=transaction), which works with every pooler; or let PgBouncer pass the settings with \
         ignore_startup_parameters = options, if it is in session mode or supports prepared statements"
    )]
    SettingsRefused(String),
    /// The database's encoding cannot store every character.
    #[error(
        "the encoding of the database is {0}, and this service needs UTF8, to store every character: create a \
         database with `create database … encoding 'UTF8' template template0`, and move the data with pg_dump"
    )]
    Encoding(String),
    /// The tables are distributed, and the service was started without the switch for that.
    #[error(
        "the tables of this database are distributed by Citus: start with --citus (EVENTS_CITUS=true), without which \
         statements fail"
    )]
    Distributed,
    /// The service was started for a distributed database, and the database is not distributed.
    #[error(
        "--citus (EVENTS_CITUS) was given, and {0}: start without it, or distribute the tables first with \
         `elephantasm-events distribute`, see docs/scale.md"
    )]
    NotDistributed(&'static str),
    /// The distribution of the tables is of a kind that the service cannot use.
    #[error("the tables of this database are distributed by Citus, and {0}, which this service cannot use")]
    UnusableShards(String),
    /// The schema is out of date and cannot be migrated through a pooler.
    #[error(
        "the schema is at version {found}, this binary needs {needed}, and there is a pooler in front of PostgreSQL: \
         set MIGRATION_DATABASE_URL to PostgreSQL itself, or run `elephantasm-events migrate` there first"
    )]
    Outdated { found: i64, needed: i64 },
    /// The schema is up to date, but the sessions of existing events have not been recorded, which needs a connection
    /// to the primary that is not pooled.
    #[error(
        "the sessions of existing events have not been recorded yet: set MIGRATION_DATABASE_URL to PostgreSQL itself, \
         or run `elephantasm-events migrate` there first"
    )]
    Incomplete,
    /// The database is unavailable or refused an operation; a retry can succeed.
    #[error("could not check or migrate the database: {0}")]
    Failed(String),
}

impl StartupError {
    /// Returns whether a retry can succeed.
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
