//! Reads from a streaming standby, and the measurement of its replication lag.
//!
//! The store periodically reads the WAL position that the primary has flushed and the position that the standby
//! has replayed. Once the standby has replayed a position that the primary had reached at some time, it has
//! every commit that was acknowledged before that time. The age of the newest such time is an upper bound of
//! the lag, independent of the servers' clocks and valid while nothing is written.

use std::collections::VecDeque;
use std::time::Duration;

use sqlx::FromRow;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::error::StoreError;
use super::metrics::{StandbyRead, StoreMetrics};
use super::pool::ConnectionPool;
use super::pooler_check::check_pooler;
use super::session::Connector;
use super::startup_error::StartupError;
use crate::panics::keep_running;

/// Number of probes in the time of the maximum lag, as far as [`PROBE_INTERVAL`] allows.
const PROBES_PER_LAG_MAX: u32 = 4;
/// Minimum and maximum time between two probes.
const PROBE_INTERVAL: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// Timeout of the pooler check, which opens several connections.
const CHECK_TIMEOUT: Duration = Duration::from_secs(15);

/// Reads the flushed WAL position, since only flushed commits are acknowledged. The timeline is taken from the
/// name of the WAL file, which begins with it.
pub(in crate::store) const PRIMARY_POSITION: &str = "
    select
        pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0')::int8 as reached,
        system_identifier,
        ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::int8 as timeline,
        (select oid::int8 from pg_database where datname = current_database()) as database
    from pg_control_system()";

/// Reads the replayed WAL position. The WAL receiver has the newest timeline, but PostgreSQL shows it only to
/// roles that may read statistics.
pub(in crate::store) const STANDBY_POSITION: &str = "
    select
        pg_is_in_recovery() as is_standby,
        coalesce(pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0')::int8, 0) as replayed,
        system_identifier,
        coalesce((select received_tli from pg_stat_wal_receiver), min_recovery_end_timeline)::int8 as timeline,
        (select oid::int8 from pg_database where datname = current_database()) as database
    from pg_control_system(), pg_control_recovery()";

/// Settings of the standby for reads that may lag. Not `Debug`, because it may contain a password.
#[derive(Clone)]
pub struct StandbySettings {
    /// How to connect to the standby.
    pub connect: PgConnectOptions,
    /// Maximum replication lag; the standby is not read while its lag is larger.
    pub lag_max: Duration,
}

/// The standby: a connection pool and the state of its replication.
pub(in crate::store) struct Standby {
    pub(in crate::store) connections: ConnectionPool,
    lag_max: Duration,
    /// The standby has every commit that was acknowledged before this time; `None` while it must not be read.
    current_as_of: watch::Receiver<Option<Instant>>,
    metrics: StoreMetrics,
    probe: ConnectionPool,
    monitor: AbortOnDropHandle<()>,
}

impl Standby {
    /// Starts monitoring the standby, which is read once the first probes have succeeded. `primary` is the pool
    /// that probes the primary, which must not be the pool of reads and edits.
    pub(in crate::store) fn start(
        connector: Connector,
        pool_size: u32,
        acquire_timeout: Duration,
        lag_max: Duration,
        primary: ConnectionPool,
        metrics: StoreMetrics,
    ) -> Self {
        let probe = ConnectionPool::new(connector.clone(), 1, acquire_timeout, None);
        let connections =
            ConnectionPool::new(connector.clone(), pool_size, acquire_timeout, Some(probe.clone()));
        let (sender, current_as_of) = watch::channel(None);
        let mut monitor = LagMonitor {
            connector,
            primary,
            probe: probe.clone(),
            connections: connections.clone(),
            lag_max,
            started: Instant::now(),
            current_as_of: sender,
            pooler_checked: false,
            primary_identity: Err("not probed yet".to_owned()),
            primary_positions: VecDeque::new(),
        };
        let run = keep_running("standby lag monitor", async move || monitor.run().await);
        Self {
            connections,
            lag_max,
            current_as_of,
            metrics,
            probe,
            monitor: AbortOnDropHandle::new(tokio::spawn(run)),
        }
    }

    /// Returns whether the lag is at most `lag_max`.
    pub(in crate::store) fn is_fresh(&self) -> bool {
        self.lag().is_some_and(|lag| lag <= self.lag_max)
    }

    /// Returns an upper bound of the lag; `None` while the standby must not be read.
    pub(in crate::store) fn lag(&self) -> Option<Duration> {
        self.current_as_of.borrow().map(|time| time.elapsed())
    }

    /// Runs a read on the standby. Fails as soon as the standby becomes unusable.
    pub(in crate::store) async fn answer<T>(
        &self,
        read: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let mut current_as_of = self.current_as_of.clone();
        tokio::select! {
            result = read => result,
            _ = current_as_of.wait_for(Option::is_none) => {
                Err(StoreError::Unavailable("the standby became unusable".to_owned()))
            }
        }
    }

    /// Counts the outcome of a read in the metrics.
    pub(in crate::store) fn count(&self, read: StandbyRead) {
        self.metrics.standby_reads(read).inc();
    }

    /// Ends the monitoring and closes the connections to the standby.
    pub(in crate::store) async fn close(&self) {
        self.monitor.abort();
        self.connections.close().await;
        self.probe.close().await;
    }
}

/// The background task that measures the replication lag.
struct LagMonitor {
    connector: Connector,
    primary: ConnectionPool,
    probe: ConnectionPool,
    connections: ConnectionPool,
    lag_max: Duration,
    started: Instant,
    current_as_of: watch::Sender<Option<Instant>>,
    /// Whether the connections to the standby have passed the pooler check.
    pooler_checked: bool,
    /// The identity of the primary, or the error of the last probe.
    primary_identity: Result<Identity, String>,
    /// WAL positions of the primary, with the times at which they were read, that the standby has not replayed
    /// yet; oldest first.
    primary_positions: VecDeque<(Instant, i64)>,
}

/// Identifies the WAL that a server writes or replays, and the database. Copies of a cluster have the same
/// system identifier; their WAL diverges from the timeline on which one of them was promoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromRow)]
struct Identity {
    system_identifier: i64,
    timeline: i64,
    database: i64,
}

#[derive(FromRow)]
struct PrimaryRow {
    reached: i64,
    #[sqlx(flatten)]
    identity: Identity,
}

#[derive(FromRow)]
struct StandbyRow {
    is_standby: bool,
    replayed: i64,
    #[sqlx(flatten)]
    identity: Identity,
}

/// The reason why the standby must not be read.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("the replication lag exceeds its limit")]
    Lagging,
    #[error("the replication lag is unknown, since the primary could not be probed: {0}")]
    LagUnknown(String),
    #[error("the server is not in recovery, so it is not a standby")]
    NotInRecovery,
    #[error("the standby does not follow the primary: their cluster, database or timeline differs")]
    NotFollowingPrimary,
    #[error(transparent)]
    PoolerCheck(#[from] StartupError),
    #[error(transparent)]
    ProbeFailed(#[from] StoreError),
    #[error("the standby did not answer in time")]
    ProbeTimedOut,
}

impl LagMonitor {
    /// Probes both servers periodically. Returns only if the standby cannot be used until a restart.
    async fn run(&mut self) {
        let period = (self.lag_max / PROBES_PER_LAG_MAX).clamp(PROBE_INTERVAL.0, PROBE_INTERVAL.1);
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut was_usable = None;
        loop {
            ticks.tick().await;
            let Some(state) = self.probe_servers().await else {
                continue;
            };
            match &state {
                Ok(()) if was_usable != Some(true) => tracing::info!("reading from the standby"),
                Err(cause) if was_usable != Some(false) => {
                    tracing::warn!(%cause, "not reading from the standby; the primary serves all reads");
                }
                _ => {}
            }
            was_usable = Some(state.is_ok());
            if matches!(&state, Err(Unusable::PoolerCheck(error)) if !error.is_transient()) {
                tracing::error!("the standby will not be used until the service is restarted");
                return;
            }
        }
    }

    /// Probes the primary and then the standby. Returns `None` while it is undecided whether the standby is
    /// usable.
    async fn probe_servers(&mut self) -> Option<Result<(), Unusable>> {
        self.probe_primary().await;
        match self.probe_standby().await {
            Ok(()) => self.check_lag(),
            Err(cause) => {
                self.current_as_of.send_replace(None);
                Some(Err(cause))
            }
        }
    }

    /// Checks the lag against its limit. Returns `None` while the lag is unknown and the last success, or the
    /// start, is recent.
    fn check_lag(&self) -> Option<Result<(), Unusable>> {
        let current_as_of = *self.current_as_of.borrow();
        let is_recent = current_as_of.unwrap_or(self.started).elapsed() <= self.lag_max;
        match &self.primary_identity {
            Ok(_) if is_recent => current_as_of.map(|_| Ok(())),
            Err(_) if is_recent => None,
            Ok(_) => Some(Err(Unusable::Lagging)),
            Err(cause) => Some(Err(Unusable::LagUnknown(cause.clone()))),
        }
    }

    /// Records the position of the primary.
    async fn probe_primary(&mut self) {
        let now = Instant::now();
        let probe = self
            .primary
            .one(sqlx::query_as::<_, PrimaryRow>(PRIMARY_POSITION));
        match timeout(PROBE_TIMEOUT, probe).await {
            Ok(Ok(PrimaryRow { reached, identity })) => {
                if self.primary_identity.as_ref() != Ok(&identity) {
                    self.primary_positions.clear(); // positions in another WAL
                }
                self.primary_identity = Ok(identity);
                self.primary_positions.push_back((now, reached));
            }
            Ok(Err(error)) => self.primary_identity = Err(error.to_string()),
            Err(_) => self.primary_identity = Err("the primary did not answer in time".to_owned()),
        }
        // An older position does not matter: a standby that has replayed it may lag too much.
        self.primary_positions
            .retain(|(time, _)| time.elapsed() <= self.lag_max);
    }

    /// Checks the standby and advances `current_as_of` to the newest position that the standby has replayed.
    async fn probe_standby(&mut self) -> Result<(), Unusable> {
        if !self.pooler_checked {
            let check = check_pooler([&self.probe, &self.connections], &self.connector);
            let checked = timeout(CHECK_TIMEOUT, check).await;
            checked.map_err(|_| Unusable::ProbeTimedOut)??;
            self.pooler_checked = true;
        }
        let probe = self.probe.one(sqlx::query_as::<_, StandbyRow>(STANDBY_POSITION));
        let probed = timeout(PROBE_TIMEOUT, probe).await;
        let row = probed.map_err(|_| Unusable::ProbeTimedOut)??;
        if !row.is_standby {
            return Err(Unusable::NotInRecovery);
        }
        if matches!(&self.primary_identity, Ok(primary) if *primary != row.identity) {
            return Err(Unusable::NotFollowingPrimary);
        }
        let replayed = self
            .primary_positions
            .iter()
            .take_while(|(_, reached)| *reached <= row.replayed)
            .count();
        if let Some((time, _)) = self.primary_positions.drain(..replayed).next_back() {
            self.current_as_of.send_replace(Some(time));
        }
        Ok(())
    }
}
