//! The writer: commits jobs on one connection to the primary, with retries, and answers their callers.

use std::sync::Arc;

use tokio::time::{Instant, timeout};
use tracing::Instrument as _;

use super::IngestSettings;
use super::division::Division;
use super::fast_path;
use super::flush::{Lock, decide_and_commit};
use super::job::Job;
use super::outcome::{Failure, Outcome};
use super::session_activity::ActivityCache;
use crate::domain::ids::SpiritId;
use crate::panics::caught;
use crate::store::live::{Announcer, Topic};
use crate::store::pg::error::StoreError;
use crate::store::pg::metrics::{FlushMetrics, StoreMetrics};
use crate::store::pg::pool::PING_AFTER_IDLE;
use crate::store::pg::session::{Connector, PgSession, STATEMENT_TIMEOUT};
use crate::store::pg::spans;

/// Number of full flushes after a taken dedupe key, before the fast path is tried again.
const FULL_FLUSHES: u32 = 16;

/// Commits jobs on a connection of its own.
pub(super) struct Writer {
    connection: FlushConnection,
    settings: IngestSettings,
    division: Arc<Division>,
    announcer: Announcer,
    metrics: StoreMetrics,
    /// Number of coming flushes that skip the fast path, because a dedupe key was taken or a job stayed
    /// undecided.
    full_flushes: u32,
}

impl Writer {
    /// Creates a writer, which connects at its first flush.
    pub(super) fn new(
        connector: Connector,
        settings: IngestSettings,
        division: Arc<Division>,
        announcer: Announcer,
        metrics: StoreMetrics,
    ) -> Self {
        let millis = settings.flush_timeout.as_millis().to_string();
        let connector = connector.with_settings([
            (STATEMENT_TIMEOUT, millis.as_str()),
            // Limits the time for which a transaction keeps its row locks after its host has vanished.
            ("idle_in_transaction_session_timeout", millis.as_str()),
        ]);
        Self {
            connection: FlushConnection::new(connector),
            settings,
            division,
            announcer,
            metrics,
            full_flushes: 0,
        }
    }

    /// Creates another writer with the same settings, not yet connected.
    pub(super) fn sibling(&self) -> Self {
        Self {
            connection: FlushConnection::new(self.connection.connector.clone()),
            settings: self.settings,
            division: Arc::clone(&self.division),
            announcer: self.announcer.clone(),
            metrics: self.metrics.clone(),
            full_flushes: 0,
        }
    }

    /// Frees the memory of what the writer has recorded about sessions.
    pub(super) fn forget_sessions(&mut self) {
        if let Some(idle) = &mut self.connection.idle {
            idle.session.activity = ActivityCache::default();
        }
    }

    /// Returns the number of items at which a flush takes no further job.
    pub(super) fn flush_items_max(&self) -> usize {
        self.settings.flush_items_max
    }

    /// Stores the jobs and answers their callers. Returns the jobs that were not stored because another transaction
    /// has locked one of their spirits, each with that spirit.
    pub(super) async fn write(&mut self, mut jobs: Vec<Job>, lock: Lock) -> Vec<(SpiritId, Job)> {
        jobs.retain(|job| !job.is_abandoned());
        let mut flushes = self.division.flushes(jobs);
        if flushes.len() > 1 {
            return self.write_in_turn(flushes, lock).await;
        }
        let jobs = flushes.pop().unwrap_or_default();
        self.write_together(jobs, lock).await
    }

    /// Stores the jobs in one flush.
    ///
    /// A flush that failed before its commit changed nothing. It is retried once if the connection was lost or
    /// the database is read-only, since a new connection may lead to the primary. If the database rejected the
    /// data, the jobs are stored one by one, so that a job fails for its own data only.
    async fn write_together(&mut self, jobs: Vec<Job>, lock: Lock) -> Vec<(SpiritId, Job)> {
        let mut outcome = self.flush(&jobs, lock).await;
        if matches!(&outcome, Err(failure) if failure.is_retriable()) {
            outcome = self.flush(&jobs, lock).await;
        }
        match outcome {
            Ok(outcomes) => {
                let Remaining {
                    mut locked,
                    undecided,
                } = answer_decided(jobs, outcomes);
                if !undecided.is_empty() {
                    self.full_flushes = self.full_flushes.max(1);
                    locked.extend(Box::pin(self.write(undecided, lock)).await);
                }
                locked
            }
            Err(failure)
                if failure.is_data_error() && (jobs.len() > 1 || jobs.iter().any(Job::is_divisible)) =>
            {
                tracing::error!(error = %failure.error, jobs = jobs.len(), "flush failed on its data; storing its requests one by one");
                self.write_one_by_one(jobs, lock).await
            }
            Err(failure) => {
                for job in jobs {
                    job.answer(Err(failure.error.clone()));
                }
                Vec::new()
            }
        }
    }

    /// Stores the jobs one by one, or the events of a single job if its mode allows that.
    async fn write_one_by_one(&mut self, mut jobs: Vec<Job>, lock: Lock) -> Vec<(SpiritId, Job)> {
        if jobs.len() == 1 {
            jobs = jobs.into_iter().flat_map(Job::divide).collect();
        }
        let flushes = jobs.into_iter().map(|job| vec![job]).collect();
        self.write_in_turn(flushes, lock).await
    }

    /// Stores the jobs of one flush after another.
    async fn write_in_turn(&mut self, flushes: Vec<Vec<Job>>, lock: Lock) -> Vec<(SpiritId, Job)> {
        let mut locked: Vec<(SpiritId, Job)> = Vec::new();
        for jobs in flushes {
            let mut free = Vec::with_capacity(jobs.len());
            for job in jobs {
                // A job that has a spirit for which an earlier job waits also waits for it, which keeps the order.
                let blocker = locked.iter().map(|(id, _)| *id).find(|id| job.involves(*id));
                match blocker {
                    Some(spirit_id) => locked.push((spirit_id, job)),
                    None => free.push(job),
                }
            }
            locked.extend(Box::pin(self.write(free, lock)).await);
        }
        locked
    }

    /// Runs one flush, with its span, metrics and notifications.
    async fn flush(&mut self, jobs: &[Job], lock: Lock) -> Result<Vec<Outcome>, Failure> {
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        let started = Instant::now();
        let span = spans::shared("flush", jobs.iter().map(|job| &job.span));
        let result = self.flush_with_timeout(jobs, lock).instrument(span).await;
        let seconds = started.elapsed().as_secs_f64();
        self.metrics.flushes.seconds.observe(seconds);
        match &result {
            Ok(outcomes) => {
                count_events(jobs, outcomes, &self.metrics.flushes);
                self.announcer
                    .announce(&spirits_with_new_events(outcomes), Topic::Events);
            }
            Err(_) => self.metrics.flushes.failures.inc(),
        }
        result
    }

    async fn flush_with_timeout(&mut self, jobs: &[Job], lock: Lock) -> Result<Vec<Outcome>, Failure> {
        let limit = self.settings.flush_timeout;
        let connected = timeout(limit, self.connection.session()).await;
        let connected = connected.map_err(|_| Failure::uncommitted(no_answer()))?;
        let mut session = connected.map_err(|error| Failure::uncommitted(error.into()))?;
        // PostgreSQL applies the statement timeout; this one is for a network that drops packets silently.
        let flushed = timeout(limit * 2, caught(self.fast_or_full(&mut session, jobs, lock))).await;
        let flushed = flushed.map_err(|_| Failure::unknown(no_answer()))?;
        // A panic may come after the commit.
        let outcomes = flushed.unwrap_or_else(|panicked| Err(Failure::unknown(panicked.into())))?;
        // Not reached after an error, which leaves the session in an unknown state; the next flush opens a new one.
        self.connection.put_back(session);
        Ok(outcomes)
    }

    /// Takes the fast path if no job needs a decision and no dedupe key was taken recently; otherwise, and always on a
    /// distributed database, runs a full flush.
    async fn fast_or_full(
        &mut self,
        session: &mut FlushSession,
        jobs: &[Job],
        lock: Lock,
    ) -> Result<Vec<Outcome>, Failure> {
        let is_sharded = session.pg.is_sharded();
        if self.full_flushes == 0 && !is_sharded && fast_path::is_eligible(jobs, lock) {
            if let Some(outcomes) = fast_path::insert_and_commit(session, jobs, lock).await? {
                return Ok(outcomes);
            }
            self.full_flushes = FULL_FLUSHES;
        }
        let outcomes = decide_and_commit(session, jobs, lock, &self.division).await?;
        self.full_flushes = if outcomes.iter().any(|outcome| outcome.duplicates() > 0) {
            FULL_FLUSHES
        } else {
            self.full_flushes.saturating_sub(1)
        };
        Ok(outcomes)
    }
}

/// The connection of a writer, opened on first use and again after a loss.
struct FlushConnection {
    connector: Connector,
    /// `None` while a flush uses the session, and after an error.
    idle: Option<IdleSession>,
}

struct IdleSession {
    session: FlushSession,
    since: Instant,
}

/// The database session of a writer.
pub(super) struct FlushSession {
    pub(super) pg: PgSession,
    /// The active minutes of sessions of events that were committed on this connection.
    pub(super) activity: ActivityCache,
}

impl FlushConnection {
    fn new(connector: Connector) -> Self {
        Self {
            connector,
            idle: None,
        }
    }

    /// Takes the idle session, or opens a new one. A session that was idle for long is pinged first: if a flush
    /// failed on a dead connection, it would be unknown whether it was committed.
    async fn session(&mut self) -> Result<FlushSession, sqlx::Error> {
        if let Some(IdleSession { mut session, since }) = self.idle.take()
            && (since.elapsed() < PING_AFTER_IDLE || session.pg.is_alive().await)
        {
            return Ok(session);
        }
        Ok(FlushSession {
            pg: self.connector.connect().await?,
            activity: ActivityCache::default(),
        })
    }

    fn put_back(&mut self, session: FlushSession) {
        self.idle = Some(IdleSession {
            session,
            since: Instant::now(),
        });
    }
}

/// Counts the events of a flush in the metrics.
fn count_events(jobs: &[Job], outcomes: &[Outcome], flushes: &FlushMetrics) {
    let decided = jobs
        .iter()
        .zip(outcomes)
        .filter(|(_, outcome)| matches!(outcome, Outcome::Decided(_)));
    let events: usize = decided.map(|(job, _)| job.items.len()).sum();
    let stored = outcomes.iter().flat_map(Outcome::admitted).count();
    let duplicates: usize = outcomes.iter().map(Outcome::duplicates).sum();
    #[allow(clippy::cast_precision_loss)] // a flush has not 2^52 events
    flushes.events.observe(events as f64);
    flushes.stored.inc_by(stored as u64);
    flushes.duplicates.inc_by(duplicates as u64);
}

/// Returns the spirits that have new events, each once.
fn spirits_with_new_events(outcomes: &[Outcome]) -> Vec<SpiritId> {
    let admitted = outcomes.iter().flat_map(Outcome::admitted);
    let mut spirit_ids: Vec<SpiritId> = admitted.map(|(event, _)| event.spirit_id).collect();
    spirit_ids.sort_unstable();
    spirit_ids.dedup();
    spirit_ids
}

fn no_answer() -> StoreError {
    StoreError::Unavailable("no answer within the flush timeout".to_owned())
}

/// The jobs that a flush did not answer.
#[derive(Default)]
struct Remaining {
    /// Jobs that were not decided, each with the locked spirit that it has to wait for.
    locked: Vec<(SpiritId, Job)>,
    /// Jobs that the fast path could not store; they need a full flush.
    undecided: Vec<Job>,
}

/// Answers the jobs that were decided and returns the others.
fn answer_decided(jobs: Vec<Job>, outcomes: Vec<Outcome>) -> Remaining {
    let mut remaining = Remaining::default();
    for (job, outcome) in jobs.into_iter().zip(outcomes) {
        match outcome {
            Outcome::Decided(decision) => job.answer(Ok(decision)),
            Outcome::Locked(spirit_id) => remaining.locked.push((spirit_id, job)),
            Outcome::Undecided => remaining.undecided.push(job),
        }
    }
    remaining
}
