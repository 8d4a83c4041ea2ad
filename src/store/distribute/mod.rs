//! Distributes the tables over the workers of a Citus cluster, by spirit.
//!
//! [`Distributor`] runs the command, [`tables`] distributes and knows the layout, [`cluster`] checks the nodes. Works on a
//! connection of its own to the coordinator, which holds the lock of migrations meanwhile.

mod cluster;
mod error;
mod tables;

use std::time::Duration;

use sqlx::migrate::Migrate as _;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};
use tokio::time::{Instant, sleep};

use self::tables::Layout;
use super::pg::migrate::{Applied, apply_to};
use super::{APPLICATION_NAME, with_name};

pub use error::DistributeError;
pub use tables::DISTRIBUTED_TABLES;
pub(super) use tables::distribute_new_tables;

/// Number of shards if none is given.
pub const SHARDS_DEFAULT: u32 = 8;

/// `application_name` of the connection.
const NAME: &str = "elephantasm-events distribute";

/// Time for which connections of an instance that has just ended may still be open.
const CLOSING_TIMEOUT: Duration = Duration::from_secs(5);
const CLOSING_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Settings of the role on all nodes. Connections from the coordinator to a worker have the settings of the role, not
/// those of the session at the coordinator.
const ROLE_SETTINGS: [&str; 4] = [
    // A worker plans each statement for its values, and would read a page by a bitmap and sort it.
    "enable_bitmapscan",
    "enable_seqscan",
    "jit",
    FAST_PATH_OPTIMIZATION,
];

/// Setting of Citus since version 13.2. The optimization fails for statements on shards of the coordinator.
const FAST_PATH_OPTIMIZATION: &str = "citus.enable_local_fast_path_query_optimization";

/// Counts connections of other processes.
const OTHER_CONNECTIONS: &str = "
    select count(*)
    from pg_stat_activity
    where datname = current_database()
    and starts_with(application_name, $1)
    and application_name <> $2
    and pid <> pg_backend_pid()";

/// Returns the statements that turn settings off for the current role in this database, for those settings that exist.
const ALTER_ROLE: &str = "
    select format('alter role %I in database %I set %s = off', current_user, current_database(), name)
    from unnest($1::text[]) with ordinality as listed (name, position)
    where current_setting(name, true) is not null
    order by position";

/// A connection to the coordinator, for [`distribute`](Self::distribute).
pub struct Distributor {
    connection: PgConnection,
}

/// The outcome of [`Distributor::distribute`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribution {
    /// Tables that were distributed; empty if all of them were already.
    pub tables: Vec<String>,
    pub shards: u32,
    /// Number of nodes that have shards.
    pub nodes: u32,
    /// The statements that set the settings of the role.
    pub role_settings: Vec<String>,
}

impl Distributor {
    /// Connects to the coordinator; `options` must not lead through a pooler that changes connections.
    ///
    /// # Errors
    /// [`DistributeError::Failed`] if it cannot be reached.
    pub async fn connect(options: PgConnectOptions) -> Result<Self, DistributeError> {
        let options = with_name(options).application_name(NAME);
        // The copy of the tables takes as long as it takes.
        let options = options.options([("statement_timeout", "0")]);
        let connection = options.connect().await?;
        Ok(Self { connection })
    }

    /// Brings the schema up to date, distributes the tables that are not distributed yet over `shards` shards, in one
    /// transaction, and sets the settings of the role. Without `shards` their number is the present one, or
    /// [`SHARDS_DEFAULT`].
    ///
    /// # Errors
    /// See [`DistributeError`]. After a refusal nothing was distributed.
    pub async fn distribute(mut self, shards: Option<u32>) -> Result<Distribution, DistributeError> {
        let connection = &mut self.connection;
        if cluster::is_read_only(connection).await? {
            return Err(DistributeError::ReadOnly);
        }
        // Ends with the connection. Instances that start wait for it.
        connection.lock().await?;
        let is_citus = cluster::has_extension(connection).await?;
        if !is_citus || !tables::layout(connection).await?.is_complete() {
            refuse_other_connections(connection).await?;
        }
        if !is_citus {
            return Err(DistributeError::NoExtension);
        }
        let nodes = cluster::check_nodes(connection).await?;
        if let Applied::Nothing = apply_to(connection).await? {
            return Err(DistributeError::ReadOnly);
        }
        let layout = tables::layout(connection).await?;
        let shards = chosen_shards(&layout, shards)?;
        let tables = tables::distribute(connection, &layout, shards).await?;
        let role_settings = set_role_settings(connection).await?;
        self.connection.close().await?;
        Ok(Distribution {
            tables,
            shards,
            nodes,
            role_settings,
        })
    }
}

/// Waits a moment for other connections to close.
async fn refuse_other_connections(connection: &mut PgConnection) -> Result<(), DistributeError> {
    let deadline = Instant::now() + CLOSING_TIMEOUT;
    loop {
        let (others,): (i64,) = sqlx::query_as(OTHER_CONNECTIONS)
            .bind(APPLICATION_NAME)
            .bind(NAME)
            .fetch_one(&mut *connection)
            .await?;
        if others == 0 {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(DistributeError::InUse(others));
        }
        sleep(CLOSING_POLL_INTERVAL).await;
    }
}

/// Returns the number of shards, which cannot change.
fn chosen_shards(layout: &Layout, wanted: Option<u32>) -> Result<u32, DistributeError> {
    match (layout.shards, wanted) {
        (Some(found), Some(wanted)) if found != wanted => Err(DistributeError::OtherShards { found, wanted }),
        (Some(found), _) => Ok(found),
        (None, wanted) => Ok(wanted.unwrap_or(SHARDS_DEFAULT)),
    }
}

/// Sets the settings of the role, which Citus sends to all nodes, and returns the statements.
async fn set_role_settings(connection: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    let statements: Vec<String> = sqlx::query_scalar(ALTER_ROLE)
        .bind(ROLE_SETTINGS)
        .fetch_all(&mut *connection)
        .await?;
    for statement in &statements {
        sqlx::raw_sql(AssertSqlSafe(statement.clone()))
            .execute(&mut *connection)
            .await?;
    }
    Ok(statements)
}
