//! Brings the schema up to date, or makes sure that it is.

use std::sync::Arc;

use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};

use crate::store::pg::pooler_check::{Found, self_test};
use crate::store::pg::error::StoreError;
use crate::store::Store;

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

impl MigrateError {
    /// Whether trying again can help.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Failed(_))
    }
}

impl From<sqlx::migrate::MigrateError> for MigrateError {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        use sqlx::migrate::MigrateError as E;
        match error {
            E::VersionMissing(version) => Self::Newer(version),
            E::VersionMismatch(version) => Self::Changed(version),
            other => Self::Failed(crate::store::pg::error::chain(&other)),
        }
    }
}

impl From<sqlx::Error> for MigrateError {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(crate::store::pg::error::chain(&error))
    }
}

impl From<StoreError> for MigrateError {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl Store {
    /// Makes sure that there are transactions and that the connections keep their statements apart, then
    /// brings the schema up to date. Returns the newest version applied.
    ///
    /// Migrations need a session for their lock. Where only a pooler is known that gives none, the
    /// schema is looked at and has to be up to date; so it is on a standby, which gets it from its primary.
    pub async fn migrate(&self) -> Result<i64, MigrateError> {
        let found = self_test([&self.probe, &self.connections], &self.link).await?;
        let direct = match (&self.direct, found) {
            (Some(direct), _) => direct,
            (None, Found::Apart) => self.link.options(),
            (None, Found::Shared) => return self.check_schema().await,
        };
        match apply(direct).await? {
            Applied::To(version) => Ok(version),
            Applied::Nothing => match self.check_schema().await {
                Err(MigrateError::Outdated { found, needed }) => Err(MigrateError::Failed(format!(
                    "the database is read-only and its schema at version {found}, this binary needs {needed}: \
                     its primary has to be migrated"
                ))),
                checked => checked,
            },
        }
    }

    /// The schema's version, if it is as this binary needs it.
    async fn check_schema(&self) -> Result<i64, MigrateError> {
        let needed = newest();
        let (exists,): (bool,) = self.connections.one(sqlx::query_as(HAS_MIGRATIONS)).await?;
        let applied: Vec<(i64, Vec<u8>)> = if exists {
            self.connections.all(sqlx::query_as(MIGRATIONS)).await?
        } else {
            Vec::new()
        };
        let found = applied.last().map_or(0, |(version, _)| *version);
        for (version, checksum) in &applied {
            match MIGRATOR.iter().find(|known| known.version == *version) {
                None => return Err(MigrateError::Newer(*version)),
                Some(known) if *known.checksum != **checksum => {
                    return Err(MigrateError::Changed(*version));
                }
                Some(_) => {}
            }
        }
        if MIGRATOR.iter().count() > applied.len() {
            return Err(MigrateError::Outdated { found, needed });
        }
        Ok(needed)
    }
}

/// What became of the migrations.
enum Applied {
    /// The schema is at this version.
    To(i64),
    /// The database takes no writes.
    Nothing,
}

/// Applies what is missing, each migration in a transaction, under an advisory lock that several
/// starting instances contend for.
///
/// Uses a connection of its own, without the statement time limit of the others: building an
/// index may take longer.
async fn apply(connect: &PgConnectOptions) -> Result<Applied, MigrateError> {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect_with(connect.clone().options([("statement_timeout", "0")]))
        .await?;
    let applied = apply_to(&pool).await;
    pool.close().await;
    applied
}

async fn apply_to(pool: &PgPool) -> Result<Applied, MigrateError> {
    let (is_read_only,): (bool,) = sqlx::query_as(IS_READ_ONLY).fetch_one(pool).await?;
    if is_read_only {
        return Ok(Applied::Nothing);
    }
    MIGRATOR.run(pool).await?;
    Ok(Applied::To(newest()))
}

fn newest() -> i64 {
    let versions = MIGRATOR.iter().map(|migration| migration.version);
    versions.max().unwrap_or(0)
}

/// A standby, or a primary turned read-only.
const IS_READ_ONLY: &str = "select current_setting('transaction_read_only')::bool";

const HAS_MIGRATIONS: &str = "select to_regclass('_sqlx_migrations') is not null";

const MIGRATIONS: &str = "
    select version, checksum
    from _sqlx_migrations
    where success
    order by version";

/// See [`super::statements`].
pub(super) fn statements() -> Vec<(&'static str, Arc<str>)> {
    vec![("migrate/versions", MIGRATIONS.into())]
}
