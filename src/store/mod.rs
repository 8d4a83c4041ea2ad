//! The PostgreSQL layer: all SQL of the service. Only this layer and [`crate::embedded_postgres`] use sqlx.
//!
//! Does not depend on gRPC. [`Store`] has a part for each kind of work: [`Store::write`] for creates and edits,
//! [`Store::read`] for queries, [`Store::live`] for streams, [`Store::keys`] for API keys, [`Store::purge`] for removals.
//! [`Store::mover`] moves events of the Python backend. [`Distributor`] distributes the tables over a Citus cluster.
//! Most functions run one statement. After the start, transactions are begun in three places: for a flush of the write
//! path, for deletions, purges and moves, and, behind a transaction pooler, for each statement. All run in tasks, so a caller
//! that goes away cannot leave a transaction open.

mod distribute;
mod keys;
mod legacy;
mod live;
mod pg;
mod purge;
mod read;
mod statements;
mod write;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use prometheus::proto::MetricFamily;
use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;

use live::Announcer;
use pg::metrics::StoreMetrics;
use pg::migrate::{Prepared, Startup};
use pg::pool::ConnectionPool;
use pg::session::{Connector, STATEMENT_TIMEOUT};
use pg::standby::Standby;
use read::ReadRouter;

use crate::panics::keep_running;

pub use distribute::{DISTRIBUTED_TABLES, DistributeError, Distribution, Distributor, SHARDS_DEFAULT};
pub use keys::{ApiKey, ApiKeys, NewApiKey};
pub use legacy::{
    EventMover, LegacyDatabase, LegacyError, LegacyEvent, LegacySpirit, Moved, MovedSpirit, SpiritState,
};
pub use live::{
    ChangeWatch, ListenSettings, LivePage, LiveSettings, LiveStreams, Pages, Replay, ReplayStart, StreamPage,
    StreamRow, Watch, WatchStart,
};
pub use pg::error::StoreError;
pub use pg::fair_semaphore::Tenant;
pub use pg::sharding::Sharding;
pub use pg::standby::StandbySettings;
pub use pg::startup_error::StartupError;
pub use purge::{PurgeProgress, Purger, RunningPurge};
pub use read::changes::{ChangePage, ChangeQuery};
pub use read::list_events::{EventPage, EventQuery, PageStart};
pub use read::purges::{PurgePage, PurgeQuery};
pub use read::sessions::{SessionPage, SessionQuery};
pub use read::spirits::{SpiritOrder, SpiritPage, SpiritQuery};
pub use read::{Consistency, Reader};
pub use statements::STATEMENTS;
pub use write::{EventWriter, IngestSettings, Queued};

/// PostgreSQL settings for the planner, with which every statement has a good plan on tables of every size, with and
/// without statistics. `docs/operations.md` sets them for the role behind a pooler that drops them.
pub const PLANNER_SETTINGS: [(&str, &str); 4] = [
    // The planner estimates the cost of a page without its limit, so it would compile pages needlessly.
    ("jit", "off"),
    // Every statement can use an index. On a new database PostgreSQL has no table sizes and would choose a
    // sequential scan, and a prepared statement keeps that plan while the table grows.
    ("enable_seqscan", "off"),
    // Generic plans are good, as tests/api/schema/plans checks, and planning a page for its parameters costs more
    // than reading it.
    ("plan_cache_mode", "force_generic_plan"),
    // Without statistics the planner expects one row in 200 for an id, so on ten million events each read of an
    // event would start two processes.
    ("max_parallel_workers_per_gather", "0"),
];

/// `application_name` of the store's connections, or its beginning.
const APPLICATION_NAME: &str = "elephantasm-events";

/// The settings for the planner on a distributed database. Citus cannot plan most statements without the values of their
/// parameters.
pub const SHARDED_PLANNER_SETTINGS: [(&str, &str); 4] = [
    PLANNER_SETTINGS[0],
    PLANNER_SETTINGS[1],
    ("plan_cache_mode", "auto"),
    PLANNER_SETTINGS[3],
];

/// Settings of the store. Not `Debug`, because they may contain database passwords.
#[derive(Clone)]
pub struct StoreSettings {
    /// Maximum number of connections for reads and edits, to the primary and to the standby each. Writers have
    /// their own.
    pub pool_size: u32,
    /// Maximum time that a statement waits for a connection.
    pub acquire_timeout: Duration,
    pub statement_timeout: Duration,
    /// Settings of the write path.
    pub ingest: IngestSettings,
    /// Settings of live streams.
    pub live: LiveSettings,
    /// Pause between two runs of the retention of spirits.
    pub retention_interval: Duration,
    /// Whether connections go through a pooler in transaction mode.
    pub transaction_pooler: bool,
    /// Whether the database is distributed.
    pub sharding: Sharding,
    /// How to connect to PostgreSQL itself, for LISTEN and migrations, if other connections go through a pooler.
    pub direct: Option<PgConnectOptions>,
    /// The standby for reads that may lag.
    pub standby: Option<StandbySettings>,
}

/// Access to the database of the service. Cheap to clone. Not `Debug`, because it contains database passwords.
#[derive(Clone)]
pub struct Store {
    /// Creates and edits.
    pub write: EventWriter,
    /// Streams.
    pub live: LiveStreams,
    /// API keys.
    pub keys: ApiKeys,
    /// Purges.
    pub purge: Purger,
    reads: ReadRouter,
    announcer: Announcer,
    pool: ConnectionPool,
    /// A pool of one connection for pings, cancels and probes of the primary, which must not wait for a
    /// connection of the busy pool.
    probe: ConnectionPool,
    standby: Option<Arc<Standby>>,
    connector: Connector,
    direct: Option<PgConnectOptions>,
    retention_interval: Duration,
    sharding: Sharding,
    metrics: StoreMetrics,
}

impl Store {
    /// Creates a store, which connects on first use, and starts its background tasks. Needs a Tokio runtime.
    #[must_use]
    pub fn open(options: PgConnectOptions, settings: StoreSettings) -> Self {
        let connector = settings.connector(options);
        let direct = settings.direct_options();
        let listen = match &direct {
            None if connector.is_transaction_pooled() => None,
            None => Some(connector.options().clone()),
            direct => direct.clone(),
        };
        let metrics = StoreMetrics::default();
        let timeout = settings.acquire_timeout;
        let probe = ConnectionPool::new(connector.clone(), 1, timeout, None);
        let pool = ConnectionPool::new(
            connector.clone(),
            settings.pool_size,
            timeout,
            Some(probe.clone()),
        );
        let standby = settings.start_standby(&probe, &metrics);
        let reads = ReadRouter::start(pool.clone(), standby.clone());
        let announcer = Announcer::start(pool.clone(), listen, settings.live.listen.clone(), &metrics);
        Self {
            write: EventWriter::start(
                connector.clone(),
                settings.ingest,
                settings.sharding,
                pool.clone(),
                reads.clone(),
                announcer.clone(),
                metrics.clone(),
            ),
            live: LiveStreams::new(
                reads.clone(),
                pool.clone(),
                announcer.clone(),
                settings.live,
                metrics.clone(),
            ),
            purge: Purger::new(pool.clone(), reads.clone(), announcer.clone(), metrics.clone()),
            keys: ApiKeys::open(&connector, timeout),
            reads,
            announcer,
            pool,
            probe,
            standby,
            connector,
            direct,
            retention_interval: settings.retention_interval,
            sharding: settings.sharding,
            metrics,
        }
    }

    /// Returns a reader with the given consistency. Without a standby every read is strong.
    #[must_use]
    pub fn read(&self, consistency: Consistency) -> Reader {
        self.reads.reader(consistency)
    }

    /// Checks the connections and the distribution of the database, applies missing migrations and starts the writers.
    /// Returns the newest version applied.
    ///
    /// # Errors
    /// See [`StartupError`]; a retry can help if [`StartupError::is_transient`].
    pub async fn migrate(&self) -> Result<i64, StartupError> {
        let startup = Startup {
            probe: &self.probe,
            pool: &self.pool,
            connector: &self.connector,
            direct: self.direct.as_ref(),
            sharding: self.sharding,
        };
        let Prepared { version, shards } = startup.prepare().await?;
        if let Some(shards) = shards {
            self.write.open_shards(shards);
        }
        Ok(version)
    }

    /// Returns what stores spirits and events of another database.
    #[must_use]
    pub fn mover(&self) -> EventMover {
        EventMover::new(self.pool.clone(), self.announcer.clone())
    }

    /// Runs a trivial statement; succeeds if the database answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let (_,): (i32,) = self.probe.one(sqlx::query_as("select 1")).await?;
        Ok(())
    }

    /// Applies the retention of spirits at intervals, until the future is dropped.
    #[must_use]
    pub fn run_retention(&self) -> BoxFuture<'static, ()> {
        let (purger, interval) = (self.purge.clone(), self.retention_interval);
        Box::pin(keep_running("retention", async move || {
            purger.run_retention(interval).await;
        }))
    }

    /// Returns all metrics of the store, with current values of the gauges.
    #[must_use]
    pub fn metrics(&self) -> Vec<MetricFamily> {
        for (label, usage) in self.write.queue_usage() {
            self.metrics.set_queue(label, &usage);
        }
        self.metrics.set_pool(&self.pool.usage());
        if let Some(standby) = &self.standby {
            self.metrics.set_standby_lag(standby.lag());
        }
        let counts = self.live.subscription_counts();
        self.metrics
            .set_live(counts.spirits, counts.events, counts.changes);
        self.metrics.gather()
    }

    /// Commits the queued events and closes all connections.
    pub async fn close(&self) {
        self.write.close().await;
        self.purge.close().await;
        self.announcer.close().await;
        self.pool.close().await;
        self.probe.close().await;
        self.keys.close().await;
        if let Some(standby) = &self.standby {
            standby.close().await;
        }
    }
}

impl StoreSettings {
    fn connector(&self, options: PgConnectOptions) -> Connector {
        let options = with_name(options);
        let connector = if self.transaction_pooler {
            Connector::transaction_pooled(options)
        } else {
            Connector::dedicated(options)
        };
        self.with_session_settings(connector)
    }

    fn direct_options(&self) -> Option<PgConnectOptions> {
        let direct = self.direct.clone()?;
        let connector = self.with_session_settings(Connector::dedicated(with_name(direct)));
        Some(connector.options().clone())
    }

    /// Starts monitoring the standby, if one is configured. `primary` is the pool that probes the primary.
    fn start_standby(&self, primary: &ConnectionPool, metrics: &StoreMetrics) -> Option<Arc<Standby>> {
        let standby = self.standby.clone()?;
        Some(Arc::new(Standby::start(
            self.connector(standby.connect),
            self.pool_size,
            self.acquire_timeout,
            standby.lag_max,
            primary.clone(),
            metrics.clone(),
        )))
    }

    /// Adds the PostgreSQL settings of all database sessions.
    fn with_session_settings(&self, connector: Connector) -> Connector {
        let millis = self.statement_timeout.as_millis().to_string();
        let connector = match self.sharding {
            Sharding::None => connector.with_settings(PLANNER_SETTINGS),
            Sharding::Citus | Sharding::Named(_) => {
                connector.sharded().with_settings(SHARDED_PLANNER_SETTINGS)
            }
        };
        connector.with_settings([
            (STATEMENT_TIMEOUT, millis.as_str()),
            // Limits the time for which a transaction keeps its row locks after its host has vanished.
            ("idle_in_transaction_session_timeout", millis.as_str()),
        ])
    }
}

/// Sets the application name and turns off statement logging.
fn with_name(options: PgConnectOptions) -> PgConnectOptions {
    options
        .application_name(APPLICATION_NAME)
        .disable_statement_logging() // the statements of a flush are long
}
