//! Applies the migrations, or checks that they have been applied.

use sqlx::migrate::{Migrate as _, Migrator};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions};

use super::backfill::{IS_INCOMPLETE, record_missing_sessions};
use super::encoding::check_encoding;
use super::pool::ConnectionPool;
use super::pooler_check::{Backends, check_pooler};
use super::session::Connector;
use super::sharding::{Sharding, check_sharding};
use super::startup_error::StartupError;
use crate::domain::shard::ShardMap;
use crate::store::distribute::distribute_new_tables;

static MIGRATOR: Migrator = sqlx::migrate!();

/// True on a standby and on a primary that was set read-only.
pub(in crate::store) const IS_READ_ONLY: &str = "select current_setting('transaction_read_only')::bool";

const HAS_MIGRATIONS: &str = "select to_regclass('_sqlx_migrations') is not null";

/// Reads the migrations that were applied, oldest first.
pub(in crate::store) const APPLIED_MIGRATIONS: &str = "
    select version, checksum
    from _sqlx_migrations
    where success
    order by version";

/// The connections used to check and migrate the database at start.
pub(in crate::store) struct Startup<'s> {
    pub(in crate::store) probe: &'s ConnectionPool,
    pub(in crate::store) pool: &'s ConnectionPool,
    pub(in crate::store) connector: &'s Connector,
    /// Connects to PostgreSQL itself if `connector` goes through a pooler.
    pub(in crate::store) direct: Option<&'s PgConnectOptions>,
    pub(in crate::store) sharding: Sharding,
}

/// A database that was checked and migrated.
pub(in crate::store) struct Prepared {
    /// The newest version of the schema.
    pub(in crate::store) version: i64,
    /// The shards of a distributed database.
    pub(in crate::store) shards: Option<ShardMap>,
}

impl Startup<'_> {
    /// Checks that transactions work, that prepared statements stay on their connection, that the encoding is UTF8 and
    /// that the database is distributed as configured, then applies missing migrations.
    ///
    /// Migrations hold a session-level advisory lock. So on a standby, and if PostgreSQL is reachable only
    /// through a transaction pooler, the schema is checked instead and has to be up to date.
    pub(in crate::store) async fn prepare(&self) -> Result<Prepared, StartupError> {
        let backends = check_pooler([self.probe, self.pool], self.connector).await?;
        check_encoding(self.probe).await?;
        let version = self.migrate(backends).await?;
        let shards = check_sharding(self.probe, self.sharding).await?;
        if let Some(shards) = &shards {
            tracing::info!(shards = shards.count(), "each shard of the tables has a writer");
        }
        Ok(Prepared { version, shards })
    }

    async fn migrate(&self, backends: Backends) -> Result<i64, StartupError> {
        let options = match (self.direct, backends) {
            (Some(direct), _) => direct,
            (None, Backends::Dedicated) => self.connector.options(),
            (None, Backends::Shared) => return self.check_schema().await,
        };
        match self.apply(options).await? {
            Applied::UpTo(version) => Ok(version),
            Applied::Nothing => match self.check_schema().await {
                Err(StartupError::Incomplete) => Err(StartupError::Failed(
                    "the database is read-only, and the sessions of its events have not been recorded yet; migrate its \
                     primary"
                        .to_owned(),
                )),
                Err(StartupError::Outdated { found, needed }) => Err(StartupError::Failed(format!(
                    "the database is read-only, its schema is at version {found} and this binary needs {needed}; \
                     migrate its primary"
                ))),
                checked => checked,
            },
        }
    }

    /// Applies missing migrations, each in a transaction, under an advisory lock that serialises instances that
    /// start at the same time.
    ///
    /// Uses a connection of its own without a statement timeout: building an index may take long.
    async fn apply(&self, options: &PgConnectOptions) -> Result<Applied, StartupError> {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .connect_with(options.clone().options([("statement_timeout", "0")]))
            .await?;
        let mut connection = pool.acquire().await?;
        let applied = self.apply_locked(&mut connection).await;
        drop(connection);
        pool.close().await;
        applied
    }

    /// Takes the lock before the check, since the tables may be distributed while the start waits for it.
    async fn apply_locked(&self, connection: &mut PgConnection) -> Result<Applied, StartupError> {
        // Held until the connection is closed.
        connection.lock().await?;
        check_sharding(self.probe, self.sharding).await?;
        apply_to(connection).await
    }

    /// Returns the version of the schema if it is the one that this binary needs.
    async fn check_schema(&self) -> Result<i64, StartupError> {
        let needed = newest();
        let (exists,): (bool,) = self.pool.one(sqlx::query_as(HAS_MIGRATIONS)).await?;
        let applied: Vec<(i64, Vec<u8>)> = if exists {
            self.pool.all(sqlx::query_as(APPLIED_MIGRATIONS)).await?
        } else {
            Vec::new()
        };
        let found = applied.last().map_or(0, |(version, _)| *version);
        for (version, checksum) in &applied {
            match MIGRATOR.iter().find(|known| known.version == *version) {
                None => return Err(StartupError::Newer(*version)),
                Some(known) if *known.checksum != **checksum => {
                    return Err(StartupError::Changed(*version));
                }
                Some(_) => {}
            }
        }
        if MIGRATOR.iter().count() > applied.len() {
            return Err(StartupError::Outdated { found, needed });
        }
        let (is_incomplete,): (bool,) = self.pool.one(sqlx::query_as(IS_INCOMPLETE)).await?;
        if is_incomplete {
            return Err(StartupError::Incomplete);
        }
        Ok(needed)
    }
}

/// The outcome of applying migrations.
pub(in crate::store) enum Applied {
    /// The schema is up to date, at this version.
    UpTo(i64),
    /// The database is read-only, so no migration was applied.
    Nothing,
}

/// Applies missing migrations, records the sessions of events that have none, and distributes new tables if the others
/// are distributed.
pub(in crate::store) async fn apply_to(connection: &mut PgConnection) -> Result<Applied, StartupError> {
    let (is_read_only,): (bool,) = sqlx::query_as(IS_READ_ONLY).fetch_one(&mut *connection).await?;
    if is_read_only {
        return Ok(Applied::Nothing);
    }
    // `run` on a borrowed connection gives a future that cannot be sent to another thread.
    MIGRATOR.run_direct(None, &mut *connection, false).await?;
    record_missing_sessions(connection).await?;
    distribute_new_tables(connection).await?;
    Ok(Applied::UpTo(newest()))
}

/// Returns the newest version that this binary has.
fn newest() -> i64 {
    let versions = MIGRATOR.iter().map(|migration| migration.version);
    versions.max().unwrap_or(0)
}
