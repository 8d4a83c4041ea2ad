//! Brings the schema up to date.

use sqlx::migrate::Migrator;
use sqlx::postgres::PgPoolOptions;

use super::Store;

static MIGRATOR: Migrator = sqlx::migrate!();

/// Why the schema could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
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
    /// The database is away, or refused; trying again can help.
    #[error("could not migrate: {0}")]
    Failed(String),
}

impl From<sqlx::migrate::MigrateError> for MigrateError {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        use sqlx::migrate::MigrateError as E;
        match error {
            E::VersionMissing(version) => Self::Newer(version),
            E::VersionMismatch(version) => Self::Changed(version),
            other => Self::Failed(super::error::chain(&other)),
        }
    }
}

impl From<sqlx::Error> for MigrateError {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(super::error::chain(&error))
    }
}

impl Store {
    /// Applies what is missing, each migration in a transaction, under an advisory lock that
    /// several starting instances contend for. Returns the newest version applied.
    ///
    /// Uses a connection of its own, without the statement time limit of the others: building an
    /// index may take longer.
    pub async fn migrate(&self) -> Result<i64, MigrateError> {
        let options = self.direct.clone().options([("statement_timeout", "0")]);
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .connect_with(options)
            .await?;
        let migrated = MIGRATOR.run(&pool).await;
        pool.close().await;
        migrated?;
        Ok(MIGRATOR
            .iter()
            .map(|migration| migration.version)
            .max()
            .unwrap_or(0))
    }
}
