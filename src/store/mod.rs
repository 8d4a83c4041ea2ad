//! PostgreSQL: the only place where SQL stands and sqlx is used.
//!
//! Knows nothing of the wire. One function, one statement, wherever the work allows it; a
//! transaction stands only in [`ingest`] and, behind a pooler, around each statement ([`link`]): in tasks
//! that no caller can cancel. Start at [`Store`].

mod connections;
mod edits;
pub mod embedded;
mod error;
mod events;
mod gets;
mod ingest;
mod keys;
mod link;
mod live;
mod metrics;
mod migrate;
mod reader;
mod replay;
mod rows;
mod self_test;
mod sessions;
mod spans;
mod spirits;
mod standby;

use std::sync::Arc;
use std::time::Duration;

use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;

use connections::ConnectionPool;
use link::{Connector, STATEMENT_TIMEOUT};
use metrics::StoreMetrics;
use standby::Standby;

pub use error::StoreError;
pub use events::{EventPage, EventQuery, PageStart};
pub use ingest::{IngestSettings, Queued};
pub use keys::{Key, NewKey};
pub use live::{ListenSettings, LivePage, LiveSettings, Pages, StreamPage, Watch, WatchStart};
pub use migrate::MigrateError;
pub use reader::{Consistency, Reader};
pub use replay::{Replay, ReplayStart};
pub use sessions::{PgSession, SessionPage};
pub use spirits::{SpiritOrder, SpiritPage, SpiritQuery};
pub use standby::StandbySettings;

/// How the store uses its database. Not `Debug`: it may know a password.
#[derive(Clone)]
pub struct StoreSettings {
    /// ConnectionPool for reads and edits; the writer has its own.
    pub pool_size: u32,
    /// How long a call waits for a connection.
    pub acquire_timeout: Duration,
    /// How long a statement may run.
    pub statement_timeout: Duration,
    /// The write path.
    pub ingest: IngestSettings,
    /// Long-lived streams.
    pub live: LiveSettings,
    /// Whether a pooler in transaction mode stands before PostgreSQL.
    pub transaction_pooler: bool,
    /// Reaches PostgreSQL itself where the other connections go through a pooler: for LISTEN and for
    /// migrations.
    pub direct: Option<PgConnectOptions>,
    /// A standby for reads that may lag.
    pub standby: Option<StandbySettings>,
}

/// Every statement by name, so that a test can prepare each against the migrated schema and read its
/// plan.
#[must_use]
pub fn statements() -> Vec<(String, Arc<str>)> {
    let mut all = events::statements();
    let others = [
        gets::statements(),
        live::statements(),
        spirits::statements(),
        edits::statements(),
        sessions::statements(),
        ingest::statements(),
        migrate::statements(),
        keys::statements(),
        standby::statements(),
    ];
    all.extend(
        others
            .into_iter()
            .flatten()
            .map(|(name, sql)| (name.to_owned(), sql)),
    );
    all
}

/// The database as the service sees it. Cheap to clone; made without a connection. Not `Debug`: it
/// knows the database's password.
#[derive(Clone)]
pub struct Store {
    connections: ConnectionPool,
    /// For [`Store::ping`] and for cancelling statements: when all others are busy the database is not
    /// away.
    probe: ConnectionPool,
    /// For keys alone.
    keys: ConnectionPool,
    /// For reads that may lag.
    standby: Option<Arc<Standby>>,
    link: Connector,
    /// Around a pooler, for migrations and LISTEN.
    direct: Option<PgConnectOptions>,
    ingest: ingest::Ingest,
    gets: gets::Gets,
    live: LiveSettings,
    changes: live::Changes,
    shared_reads: live::SharedReads,
    metrics: StoreMetrics,
}

impl Store {
    /// Opens a store that connects as it is used. Needs a Tokio runtime, in which its writer lives
    /// until the last clone is dropped.
    #[must_use]
    pub fn open(options: PgConnectOptions, settings: StoreSettings) -> Self {
        let link = |options| {
            let link = if settings.transaction_pooler {
                Connector::shared(own(options))
            } else {
                Connector::own(own(options))
            };
            with_settings(link, settings.statement_timeout)
        };
        let standby = settings
            .standby
            .map(|standby| (link(standby.connect), standby.lag_max));
        let link = link(options);
        let direct = settings.direct.map(|direct| {
            let direct = with_settings(Connector::own(own(direct)), settings.statement_timeout);
            direct.options().clone()
        });
        let listening = match &direct {
            None if link.is_shared() => None,
            None => Some(link.options().clone()),
            direct => direct.clone(),
        };
        let wait = settings.acquire_timeout;
        let probe = ConnectionPool::new(link.clone(), 1, wait, None);
        let connections = ConnectionPool::new(link.clone(), settings.pool_size, wait, Some(probe.clone()));
        let metrics = StoreMetrics::default();
        let standby = standby.map(|(link, lag_max)| {
            let primary = probe.clone();
            let (size, metrics) = (settings.pool_size, metrics.clone());
            Arc::new(Standby::start(link, size, wait, lag_max, primary, metrics))
        });
        let changes = live::Changes::start(
            connections.clone(),
            listening,
            settings.live.listen.clone(),
            &metrics,
        );
        let lane = ingest::FlushConnection::new(link.clone(), settings.ingest, changes.clone(), metrics.clone());
        Self {
            ingest: ingest::Ingest::start(lane, settings.ingest),
            gets: gets::Gets::start(&connections),
            keys: ConnectionPool::new(link.clone(), keys::KEY_CONNECTIONS, wait, None),
            probe,
            connections,
            standby,
            link,
            direct,
            live: settings.live,
            changes,
            shared_reads: live::SharedReads::default(),
            metrics,
        }
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let (_,): (i32,) = self.probe.one(sqlx::query_as("select 1")).await?;
        Ok(())
    }

    /// Ends every live stream: the database is away.
    pub fn lose_streams(&self) {
        self.changes.lose();
    }

    /// Finishes queued writes and closes every connection.
    pub async fn close(&self) {
        self.ingest.close().await;
        self.changes.close().await;
        self.connections.close().await;
        self.probe.close().await;
        self.keys.close().await;
        if let Some(standby) = &self.standby {
            standby.close().await;
        }
    }
}

/// Options of the store's own connections.
fn own(options: PgConnectOptions) -> PgConnectOptions {
    options
        .application_name("elephantasm-events")
        .disable_statement_logging() // a flush's statements are long
}

/// The settings under which every statement runs.
fn with_settings(link: Connector, statement_timeout: Duration) -> Connector {
    let millis = statement_timeout.as_millis().to_string();
    link.with([
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
