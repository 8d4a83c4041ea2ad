//! PostgreSQL: all SQL of the service, and the only layer beside [`crate::embedded_postgres`] that uses sqlx.
//!
//! Does not depend on gRPC. [`Store`] has a part for each kind of work: [`Store::write`] for creates and edits,
//! [`Store::read`] for queries, [`Store::live`] for streams, [`Store::keys`] for API keys. Most functions run
//! one statement. A transaction is opened in two places only: a flush of the write path, and, behind a
//! transaction pooler, around each statement. Both run in tasks that no caller can cancel.

mod keys;
mod live;
mod pg;
mod read;
mod statements;
mod write;

use std::sync::Arc;
use std::time::Duration;

use prometheus::proto::MetricFamily;
use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;

use live::Announcer;
use pg::metrics::StoreMetrics;
use pg::migrate::Startup;
use pg::pool::ConnectionPool;
use pg::session::{Connector, STATEMENT_TIMEOUT};
use pg::standby::Standby;
use read::ReadRouter;

pub use keys::{ApiKeys, Key, NewKey};
pub use live::{
    ListenSettings, LivePage, LiveSettings, LiveStreams, Pages, Replay, ReplayStart, StreamPage, Watch,
    WatchStart,
};
pub use pg::error::StoreError;
pub use pg::standby::StandbySettings;
pub use pg::startup_error::StartupError;
pub use read::list_events::{EventPage, EventQuery, PageStart};
pub use read::list_sessions::{Session, SessionPage};
pub use read::spirits::{SpiritOrder, SpiritPage, SpiritQuery};
pub use read::{Consistency, Reader};
pub use statements::STATEMENTS;
pub use write::{EventWriter, IngestSettings, Queued};

/// Settings of the store. Not `Debug`, because it may hold a password.
#[derive(Clone)]
pub struct StoreSettings {
    /// Connections for reads and edits; writers have their own.
    pub pool_size: u32,
    /// Time limit of a call's wait for a connection.
    pub acquire_timeout: Duration,
    /// Time limit of a statement.
    pub statement_timeout: Duration,
    /// The write path.
    pub ingest: IngestSettings,
    /// Long-lived streams.
    pub live: LiveSettings,
    /// True behind a pooler in transaction mode.
    pub transaction_pooler: bool,
    /// Connects to PostgreSQL itself where other connections go through a pooler; used for LISTEN and
    /// migrations.
    pub direct: Option<PgConnectOptions>,
    /// A standby for reads that may lag.
    pub standby: Option<StandbySettings>,
}

/// The database of the service. Cheap to clone. Not `Debug`, because it holds the database's password.
#[derive(Clone)]
pub struct Store {
    /// Creates and edits.
    pub write: EventWriter,
    /// Streams.
    pub live: LiveStreams,
    /// API keys.
    pub keys: ApiKeys,
    reads: ReadRouter,
    announcer: Announcer,
    pool: ConnectionPool,
    /// A connection for [`Store::ping`] and for cancelling statements, so that a busy pool does not look like
    /// a database that is down.
    probe: ConnectionPool,
    standby: Option<Arc<Standby>>,
    connector: Connector,
    direct: Option<PgConnectOptions>,
    metrics: StoreMetrics,
}

impl Store {
    /// Opens a store; connections are made on first use. Needs a Tokio runtime.
    #[must_use]
    pub fn open(options: PgConnectOptions, settings: StoreSettings) -> Self {
        let connector = |options| {
            let connector = if settings.transaction_pooler {
                Connector::shared(with_name(options))
            } else {
                Connector::own(with_name(options))
            };
            with_settings(connector, settings.statement_timeout)
        };
        let standby = settings
            .standby
            .map(|standby| (connector(standby.connect), standby.lag_max));
        let connector = connector(options);
        let direct = settings.direct.map(|direct| {
            let direct = with_settings(Connector::own(with_name(direct)), settings.statement_timeout);
            direct.options().clone()
        });
        let listening = match &direct {
            None if connector.is_shared() => None,
            None => Some(connector.options().clone()),
            direct => direct.clone(),
        };
        let wait = settings.acquire_timeout;
        let probe = ConnectionPool::new(connector.clone(), 1, wait, None);
        let pool = ConnectionPool::new(connector.clone(), settings.pool_size, wait, Some(probe.clone()));
        let metrics = StoreMetrics::default();
        let standby = standby.map(|(connector, lag_max)| {
            let primary = probe.clone();
            let (size, metrics) = (settings.pool_size, metrics.clone());
            Arc::new(Standby::start(connector, size, wait, lag_max, primary, metrics))
        });
        let reads = ReadRouter::start(pool.clone(), standby.clone());
        let announcer = Announcer::start(pool.clone(), listening, settings.live.listen.clone(), &metrics);
        Self {
            write: EventWriter::start(
                connector.clone(),
                settings.ingest,
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
            keys: ApiKeys::open(connector.clone(), wait),
            reads,
            announcer,
            pool,
            probe,
            standby,
            connector,
            direct,
            metrics,
        }
    }

    /// Returns a reader of this consistency. Without a standby every read is strong.
    #[must_use]
    pub fn read(&self, consistency: Consistency) -> Reader {
        self.reads.reader(consistency)
    }

    /// Checks the connections and brings the schema up to date. Returns the newest version applied.
    ///
    /// # Errors
    /// See [`StartupError`]; a retry can help if [`StartupError::is_transient`].
    pub async fn migrate(&self) -> Result<i64, StartupError> {
        let startup = Startup {
            probe: &self.probe,
            pool: &self.pool,
            connector: &self.connector,
            direct: self.direct.as_ref(),
        };
        startup.migrate().await
    }

    /// Succeeds if the database answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let (_,): (i32,) = self.probe.one(sqlx::query_as("select 1")).await?;
        Ok(())
    }

    /// Returns all metrics of the store, gauges as of now.
    #[must_use]
    pub fn metrics(&self) -> Vec<MetricFamily> {
        for (share, usage) in self.write.queue_usage() {
            self.metrics.set_queue(share, &usage);
        }
        self.metrics.set_pool(&self.pool.usage());
        if let Some(standby) = &self.standby {
            self.metrics.set_standby_lag(standby.lag());
        }
        let (spirits, streams) = self.live.followed();
        self.metrics.set_live(spirits, streams);
        self.metrics.gather()
    }

    /// Commits the queued events and closes every connection.
    pub async fn close(&self) {
        self.write.close().await;
        self.announcer.close().await;
        self.pool.close().await;
        self.probe.close().await;
        self.keys.close().await;
        if let Some(standby) = &self.standby {
            standby.close().await;
        }
    }
}

/// Names the connections and turns off statement logging.
fn with_name(options: PgConnectOptions) -> PgConnectOptions {
    options
        .application_name("elephantasm-events")
        .disable_statement_logging() // a flush's statements are long
}

/// Adds the settings under which every statement runs.
fn with_settings(connector: Connector, statement_timeout: Duration) -> Connector {
    let millis = statement_timeout.as_millis().to_string();
    connector.with([
        (STATEMENT_TIMEOUT, millis.as_str()),
        // A page's cost is estimated without its limit, and would be worth compiling if it were true.
        ("jit", "off"),
        // Every statement has its index. On a new database PostgreSQL knows no table's size and would scan
        // it, and a prepared statement keeps that plan while the table grows.
        ("enable_seqscan", "off"),
        // The plans made once for all are the right ones, see tests/api/plans.rs; planning a page for its
        // values costs more than reading it.
        ("plan_cache_mode", "force_generic_plan"),
        // A transaction whose host has vanished must not hold a row for long.
        ("idle_in_transaction_session_timeout", millis.as_str()),
    ])
}
