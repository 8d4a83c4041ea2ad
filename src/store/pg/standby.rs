//! A streaming standby of the primary, for reads that may lag, and how far it lags.
//!
//! The primary is asked now and then how far its log has been written, the standby how far it has replayed
//! it. Once it has replayed a place that the primary had reached at some time, it knows everything that
//! was acknowledged before that time, whatever the clocks of the two say and also while nothing is written.
//! How long ago the newest such time is bounds its lag.

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

/// Where reads may go that may lag. Not `Debug`: it may know a password.
#[derive(Clone)]
pub struct StandbySettings {
    pub connect: PgConnectOptions,
    /// A standby that lags more is not read.
    pub lag_max: Duration,
}

/// Looks at the standby in the time that it may lag; looks are further apart than this at the most.
const LOOKS_IN_LAG_MAX: u32 = 4;
const LOOK_INTERVAL: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// After which a look has failed.
const LOOK_TIMEOUT: Duration = Duration::from_secs(3);
/// After which the self-test has failed, which makes several connections.
const TEST_TIMEOUT: Duration = Duration::from_secs(15);

/// The standby.
pub(in crate::store) struct Standby {
    pub(in crate::store) connections: ConnectionPool,
    lag_max: Duration,
    /// It knows everything that was acknowledged before this; `None` while it is not to be read.
    knows_until: watch::Receiver<Option<Instant>>,
    metrics: StoreMetrics,
    probe: ConnectionPool,
    watch: AbortOnDropHandle<()>,
}

impl Standby {
    /// Starts to look at it; it is read once it is found to be good. Needs connections to the primary that
    /// are free while others are busy.
    pub(in crate::store) fn start(
        connector: Connector,
        pool_size: u32,
        wait: Duration,
        lag_max: Duration,
        primary: ConnectionPool,
        metrics: StoreMetrics,
    ) -> Self {
        let probe = ConnectionPool::new(connector.clone(), 1, wait, None);
        let connections = ConnectionPool::new(connector.clone(), pool_size, wait, Some(probe.clone()));
        let (until, knows_until) = watch::channel(None);
        let mut watch = LagMonitor {
            connector,
            primary,
            probe: probe.clone(),
            connections: connections.clone(),
            lag_max,
            begun: Instant::now(),
            until,
            is_tested: false,
            identity: Err("it was not asked yet".to_owned()),
            reached: VecDeque::new(),
        };
        let watching = keep_running("standby watch", async move || watch.run().await);
        Self {
            connections,
            lag_max,
            knows_until,
            metrics,
            probe,
            watch: AbortOnDropHandle::new(tokio::spawn(watching)),
        }
    }

    /// Whether it lags no more than it may.
    pub(in crate::store) fn is_fresh(&self) -> bool {
        self.lag().is_some_and(|lag| lag <= self.lag_max)
    }

    /// How far it lags at the most; `None` while it is not to be read.
    pub(in crate::store) fn lag(&self) -> Option<Duration> {
        self.knows_until.borrow().map(|until| until.elapsed())
    }

    /// The answer to a read; none is waited for from a standby that is found to be of no use meanwhile.
    pub(in crate::store) async fn answer<T>(
        &self,
        read: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let mut until = self.knows_until.clone();
        tokio::select! {
            answer = read => answer,
            _ = until.wait_for(Option::is_none) => {
                Err(StoreError::Unavailable("the standby has gone".to_owned()))
            }
        }
    }

    pub(in crate::store) fn count(&self, read: StandbyRead) {
        self.metrics.standby_reads(read).inc();
    }

    pub(in crate::store) async fn close(&self) {
        self.watch.abort();
        self.connections.close().await;
        self.probe.close().await;
    }
}

/// The task that looks.
struct LagMonitor {
    connector: Connector,
    primary: ConnectionPool,
    probe: ConnectionPool,
    connections: ConnectionPool,
    lag_max: Duration,
    begun: Instant,
    until: watch::Sender<Option<Instant>>,
    /// Whether its connections have passed the self-test.
    is_tested: bool,
    /// Of the primary, or why that is not known.
    identity: Result<Identity, String>,
    /// Places in its log that the primary had reached at a time and the standby not yet, oldest first.
    reached: VecDeque<(Instant, i64)>,
}

/// Whose log a server writes or replays, and the database in it. Copies of a cluster have its name, and go
/// ways of their own from the timeline on that one of them was promoted to.
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

/// Why the standby is not read.
#[derive(Debug, thiserror::Error)]
enum NotRead {
    #[error("it is further behind than it may be")]
    Behind,
    #[error("how far it is behind is not known, since the primary does not say how far itself is: {0}")]
    Unmeasured(String),
    #[error("it is not in recovery, so it is no standby")]
    NoStandby,
    #[error("it does not follow the primary: theirs are other clusters, databases or timelines")]
    Stranger,
    #[error(transparent)]
    Unfit(#[from] StartupError),
    #[error(transparent)]
    Failed(#[from] StoreError),
    #[error("it did not answer in time")]
    Late,
}

impl LagMonitor {
    async fn run(&mut self) {
        let between = (self.lag_max / LOOKS_IN_LAG_MAX).clamp(LOOK_INTERVAL.0, LOOK_INTERVAL.1);
        let mut looks = interval(between);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut was_read = None;
        loop {
            looks.tick().await;
            self.ask_primary().await;
            let found = self.ask_standby().await;
            if found.is_err() {
                self.until.send_replace(None);
            }
            let Some(found) = found.map_or_else(|cause| Some(Err(cause)), |()| self.measured()) else {
                continue;
            };
            match &found {
                Ok(()) if was_read != Some(true) => tracing::info!("the standby is read"),
                Err(cause) if was_read != Some(false) => {
                    tracing::warn!(%cause, "the standby is not read, the primary serves all");
                }
                _ => {}
            }
            was_read = Some(found.is_ok());
            if matches!(&found, Err(NotRead::Unfit(unfit)) if !unfit.is_transient()) {
                tracing::error!("the standby will not be read before a restart");
                return;
            }
        }
    }

    /// Whether it is near enough; `None` while that cannot be said yet.
    fn measured(&self) -> Option<Result<(), NotRead>> {
        let until = self.until.borrow().unwrap_or(self.begun);
        let is_near = until.elapsed() <= self.lag_max;
        match &self.identity {
            Ok(_) if is_near => self.until.borrow().map(|_| Ok(())),
            Err(_) if is_near => None,
            Ok(_) => Some(Err(NotRead::Behind)),
            Err(cause) => Some(Err(NotRead::Unmeasured(cause.clone()))),
        }
    }

    /// Takes note of what the primary has reached.
    async fn ask_primary(&mut self) {
        let now = Instant::now();
        let asked = self
            .primary
            .one(sqlx::query_as::<_, PrimaryRow>(PRIMARY_POSITION));
        match timeout(LOOK_TIMEOUT, asked).await {
            Ok(Ok(PrimaryRow { reached, identity })) => {
                if self.identity.as_ref() != Ok(&identity) {
                    self.reached.clear(); // places in another log
                }
                self.identity = Ok(identity);
                self.reached.push_back((now, reached));
            }
            Ok(Err(error)) => self.identity = Err(error.to_string()),
            Err(_) => self.identity = Err("it did not answer in time".to_owned()),
        }
        // What is older does not make it fresh any more.
        while self
            .reached
            .front()
            .is_some_and(|(time, _)| time.elapsed() > self.lag_max)
        {
            self.reached.pop_front();
        }
    }

    /// Finds up to when the standby knows everything.
    async fn ask_standby(&mut self) -> Result<(), NotRead> {
        if !self.is_tested {
            let tested = check_pooler([&self.probe, &self.connections], &self.connector);
            timeout(TEST_TIMEOUT, tested).await.map_err(|_| NotRead::Late)??;
            self.is_tested = true;
        }
        let asked = self.probe.one(sqlx::query_as::<_, StandbyRow>(STANDBY_POSITION));
        let row = timeout(LOOK_TIMEOUT, asked).await.map_err(|_| NotRead::Late)??;
        if !row.is_standby {
            return Err(NotRead::NoStandby);
        }
        if self
            .identity
            .as_ref()
            .is_ok_and(|primary| *primary != row.identity)
        {
            return Err(NotRead::Stranger);
        }
        let known = self
            .reached
            .iter()
            .take_while(|(_, reached)| *reached <= row.replayed)
            .count();
        if let Some((time, _)) = self.reached.drain(..known).next_back() {
            self.until.send_replace(Some(time));
        }
        Ok(())
    }
}

/// What is acknowledged has been flushed. The name of a file of the log begins with its timeline.
pub(in crate::store) const PRIMARY_POSITION: &str = "
    select
        pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0')::int8 as reached,
        system_identifier,
        ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::int8 as timeline,
        (select oid::int8 from pg_database where datname = current_database()) as database
    from pg_control_system()";

/// The receiver's timeline is the newest, and shown to those alone who may see statistics.
pub(in crate::store) const STANDBY_POSITION: &str = "
    select
        pg_is_in_recovery() as is_standby,
        coalesce(pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0')::int8, 0) as replayed,
        system_identifier,
        coalesce((select received_tli from pg_stat_wal_receiver), min_recovery_end_timeline)::int8 as timeline,
        (select oid::int8 from pg_database where datname = current_database()) as database
    from pg_control_system(), pg_control_recovery()";
