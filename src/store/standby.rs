//! A streaming standby of the primary, for reads that may lag, and how far it lags.
//!
//! The primary is asked now and then how far its log has been written, the standby how far it has replayed
//! it. Once it has replayed a place that the primary had reached at some time, it knows everything that
//! was acknowledged before that time, whatever the clocks of the two say and also while nothing is written.
//! How long ago the newest such time is bounds its lag.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::connections::Connections;
use super::error::StoreError;
use super::gets::Gets;
use super::link::Link;
use super::metrics::{StandbyRead, StoreMetrics};
use super::migrate::MigrateError;
use super::self_test::self_test;
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
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// The standby.
pub(super) struct Standby {
    pub(super) connections: Connections,
    pub(super) gets: Gets,
    freshness: Arc<Freshness>,
    metrics: StoreMetrics,
    probe: Connections,
    _watch: AbortOnDropHandle<()>,
}

/// Up to when the standby is known to know everything.
struct Freshness {
    begun: Instant,
    lag_max: Duration,
    /// Milliseconds since `begun`, and one; 0 = it is not to be read.
    until: AtomicU64,
    /// Told when it is not to be read any more.
    gone: Notify,
}

impl Standby {
    /// Starts to look at it; it is read once it is found to be good. Needs connections to the primary that
    /// are free while others are busy.
    pub(super) fn start(
        link: Link,
        pool_size: u32,
        wait: Duration,
        lag_max: Duration,
        primary: Connections,
        metrics: StoreMetrics,
    ) -> Self {
        let probe = Connections::new(link.clone(), 1, wait, None);
        let connections = Connections::new(link.clone(), pool_size, wait, Some(probe.clone()));
        let freshness = Arc::new(Freshness {
            begun: Instant::now(),
            lag_max,
            until: AtomicU64::new(0),
            gone: Notify::new(),
        });
        let mut watch = Watch {
            link,
            primary,
            probe: probe.clone(),
            connections: connections.clone(),
            freshness: Arc::clone(&freshness),
            is_tested: false,
            identity: None,
            reached: VecDeque::new(),
        };
        let watching = keep_running("standby watch", async move || watch.run().await);
        Self {
            gets: Gets::start(&connections),
            connections,
            freshness,
            metrics,
            probe,
            _watch: AbortOnDropHandle::new(tokio::spawn(watching)),
        }
    }

    /// Whether it lags no more than it may.
    pub(super) fn is_fresh(&self) -> bool {
        self.lag().is_some_and(|lag| lag <= self.freshness.lag_max)
    }

    /// How far it lags at the most; `None` while it is not to be read.
    pub(super) fn lag(&self) -> Option<Duration> {
        self.freshness.lag()
    }

    /// The answer to a read; none is waited for from a standby that was found to be of no use meanwhile.
    pub(super) async fn answer<T>(
        &self,
        read: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let gone = self.freshness.gone.notified();
        tokio::select! {
            answer = read => answer,
            () = gone => Err(StoreError::Unavailable("the standby has gone".to_owned())),
        }
    }

    pub(super) fn count(&self, read: StandbyRead) {
        self.metrics.standby_reads(read).inc();
    }

    pub(super) async fn close(&self) {
        self.connections.close().await;
        self.probe.close().await;
    }
}

impl Freshness {
    fn lag(&self) -> Option<Duration> {
        let until = self.until.load(Ordering::Acquire).checked_sub(1)?;
        Some(self.begun.elapsed().saturating_sub(Duration::from_millis(until)))
    }

    fn is_until(&self, time: Instant) {
        let millis = time.saturating_duration_since(self.begun).as_millis();
        let millis = u64::try_from(millis).unwrap_or(u64::MAX - 1);
        self.until.store(millis + 1, Ordering::Release);
    }

    fn is_unknown(&self) {
        self.until.store(0, Ordering::Release);
        self.gone.notify_waiters();
    }
}

/// The task that looks.
struct Watch {
    link: Link,
    primary: Connections,
    probe: Connections,
    connections: Connections,
    freshness: Arc<Freshness>,
    /// Whether its connections have passed the self-test.
    is_tested: bool,
    /// Of the primary, once it has said.
    identity: Option<Identity>,
    /// Places in its log that the primary had reached at a time and the standby not yet, oldest first.
    reached: VecDeque<(Instant, i64)>,
}

/// Which database a server has: of which cluster and its copies, and which there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    system: i64,
    database: i64,
}

/// Why the standby is not read.
#[derive(Debug, thiserror::Error)]
enum NotRead {
    #[error("it is not in recovery, so it is no standby")]
    NoStandby,
    #[error("it is no copy of the primary's database")]
    Stranger,
    #[error(transparent)]
    Unfit(#[from] MigrateError),
    #[error(transparent)]
    Failed(#[from] StoreError),
    #[error("it did not answer in time")]
    Late,
}

impl Watch {
    async fn run(&mut self) {
        let between = (self.freshness.lag_max / LOOKS_IN_LAG_MAX).clamp(LOOK_INTERVAL.0, LOOK_INTERVAL.1);
        let mut looks = interval(between);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut was_read = None;
        loop {
            looks.tick().await;
            self.ask_primary().await;
            let asked = timeout(LOOK_TIMEOUT, self.ask_standby()).await;
            let asked = asked.unwrap_or(Err(NotRead::Late));
            match &asked {
                Ok(()) if was_read != Some(true) => tracing::info!("the standby can be read"),
                Err(cause) if was_read != Some(false) => {
                    tracing::warn!(%cause, "the standby is not read, the primary serves all");
                }
                _ => {}
            }
            was_read = Some(asked.is_ok());
            if let Err(cause) = asked {
                self.freshness.is_unknown();
                if matches!(&cause, NotRead::Unfit(unfit) if !unfit.may_pass()) {
                    tracing::error!("the standby will not be read before a restart");
                    return;
                }
            }
        }
    }

    /// Takes note of what the primary has reached.
    async fn ask_primary(&mut self) {
        let now = Instant::now();
        let asked = self.primary.one(sqlx::query_as::<_, (i64, i64, i64)>(PRIMARY));
        match timeout(LOOK_TIMEOUT, asked).await {
            Ok(Ok((reached, system, database))) => {
                self.identity = Some(Identity { system, database });
                self.reached.push_back((now, reached));
            }
            Ok(Err(error)) => tracing::debug!(%error, "the primary did not say how far it is"),
            Err(_) => tracing::debug!("the primary did not say in time how far it is"),
        }
        // What is older does not make it fresh any more.
        let lag_max = self.freshness.lag_max;
        while self
            .reached
            .front()
            .is_some_and(|(time, _)| time.elapsed() > lag_max)
        {
            self.reached.pop_front();
        }
    }

    /// Finds up to when the standby knows everything.
    async fn ask_standby(&mut self) -> Result<(), NotRead> {
        if !self.is_tested {
            self_test([&self.probe, &self.connections], &self.link).await?;
            self.is_tested = true;
        }
        let asked = sqlx::query_as::<_, (bool, i64, i64, i64)>(STANDBY);
        let (is_standby, replayed, system, database) = self.probe.one(asked).await?;
        if !is_standby {
            return Err(NotRead::NoStandby);
        }
        if self
            .identity
            .is_some_and(|identity| identity != Identity { system, database })
        {
            return Err(NotRead::Stranger);
        }
        let known = self
            .reached
            .iter()
            .take_while(|(_, reached)| *reached <= replayed)
            .count();
        if let Some((time, _)) = self.reached.drain(..known).next_back() {
            self.freshness.is_until(time);
        }
        Ok(())
    }
}

/// What is acknowledged has been flushed.
const PRIMARY: &str = "
    select
        pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0')::int8 as reached,
        system_identifier,
        (select oid::int8 from pg_database where datname = current_database()) as database
    from pg_control_system()";

const STANDBY: &str = "
    select
        pg_is_in_recovery() as is_standby,
        coalesce(pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0')::int8, 0) as replayed,
        system_identifier,
        (select oid::int8 from pg_database where datname = current_database()) as database
    from pg_control_system()";

/// See [`super::statements`].
pub(super) fn statements() -> Vec<(&'static str, Arc<str>)> {
    vec![
        ("standby/primary", PRIMARY.into()),
        ("standby/standby", STANDBY.into()),
    ]
}
