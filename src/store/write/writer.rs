//! A writer: one connection to the primary that commits jobs, retries and answers them.

use tokio::time::{Instant, timeout};
use tracing::Instrument as _;

use super::IngestSettings;
use super::fast_path;
use super::flush::{Lock, decide_and_commit};
use super::job::Job;
use super::outcome::{Failure, Outcome};
use crate::domain::ids::SpiritId;
use crate::panics::caught;
use crate::store::live::Announcer;
use crate::store::pg::error::StoreError;
use crate::store::pg::metrics::{Flushes, StoreMetrics};
use crate::store::pg::pool::TRUSTED_FOR;
use crate::store::pg::session::{Connector, PgSession};
use crate::store::pg::spans;

/// Commits jobs on a connection of its own, which it opens on first use and again after a loss.
pub(super) struct Writer {
    connection: FlushConnection,
    settings: IngestSettings,
    announcer: Announcer,
    metrics: StoreMetrics,
    /// Flushes that skip the fast path because a dedupe key was taken recently.
    full_flushes: u32,
}

/// The connection of a writer while no flush uses it.
struct FlushConnection {
    connector: Connector,
    idle: Option<IdleSession>,
}

struct IdleSession {
    session: PgSession,
    since: Instant,
}

/// The number of flushes without a taken dedupe key after which the fast path is tried again.
const FULL_FLUSHES: u32 = 16;

impl FlushConnection {
    /// Returns the idle session, or a new one. A session that was idle for long is pinged first: after an
    /// error on a dead connection it is unknown whether a flush was committed.
    async fn session(&mut self) -> Result<PgSession, sqlx::Error> {
        if let Some(IdleSession { mut session, since }) = self.idle.take()
            && (since.elapsed() < TRUSTED_FOR || session.lives().await)
        {
            return Ok(session);
        }
        self.connector.connect().await
    }

    fn put_back(&mut self, session: PgSession) {
        self.idle = Some(IdleSession {
            session,
            since: Instant::now(),
        });
    }
}

impl Writer {
    pub(super) fn new(
        connector: Connector,
        settings: IngestSettings,
        announcer: Announcer,
        metrics: StoreMetrics,
    ) -> Self {
        let millis = settings.flush_timeout.as_millis().to_string();
        let connector = connector.with([
            ("statement_timeout", millis.as_str()),
            // A client whose host vanishes inside a transaction must not keep its locks for long.
            ("idle_in_transaction_session_timeout", millis.as_str()),
        ]);
        Self {
            connection: FlushConnection {
                connector,
                idle: None,
            },
            settings,
            announcer,
            metrics,
            full_flushes: 0,
        }
    }

    /// Returns another writer to the same database, not yet connected.
    pub(super) fn sibling(&self) -> Self {
        Self {
            connection: FlushConnection {
                connector: self.connection.connector.clone(),
                idle: None,
            },
            settings: self.settings,
            announcer: self.announcer.clone(),
            metrics: self.metrics.clone(),
            full_flushes: 0,
        }
    }

    pub(super) fn flush_items_max(&self) -> usize {
        self.settings.flush_items_max
    }

    /// Stores the jobs and answers them. Returns the jobs of spirits that another transaction has locked.
    ///
    /// A flush that failed before its commit changed nothing. It is retried once if the connection was lost or
    /// the database is read-only, since a new connection may lead to the primary. If the database rejected the
    /// data, the jobs are stored one by one, so that a job fails for its own data only.
    pub(super) async fn write(&mut self, mut jobs: Vec<Job>, lock: Lock) -> Vec<(SpiritId, Job)> {
        jobs.retain(|job| !job.is_abandoned());
        let mut outcome = self.flush(&jobs, lock).await;
        if matches!(&outcome, Err(failure) if failure.is_retriable()) {
            outcome = self.flush(&jobs, lock).await;
        }
        match outcome {
            Ok(outcomes) => {
                let Remaining {
                    mut locked,
                    undecided,
                } = answer_all(jobs, outcomes);
                if !undecided.is_empty() {
                    self.full_flushes = self.full_flushes.max(1);
                    locked.extend(Box::pin(self.write(undecided, lock)).await);
                }
                locked
            }
            Err(failure)
                if failure.is_of_the_data() && (jobs.len() > 1 || jobs.iter().any(Job::is_divisible)) =>
            {
                tracing::error!(error = %failure.error, jobs = jobs.len(), "flush failed on its data; storing its requests apart");
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
        let mut locked: Vec<(SpiritId, Job)> = Vec::new();
        for job in jobs {
            // A job behind one that waits for a spirit waits too, which keeps the order.
            let behind = locked.iter().map(|(id, _)| *id).find(|id| job.concerns(*id));
            match behind {
                Some(spirit_id) => locked.push((spirit_id, job)),
                None => locked.extend(Box::pin(self.write(vec![job], lock)).await),
            }
        }
        locked
    }

    /// Runs one flush: on the fast path if no job needs a decision, else in a transaction that decides.
    async fn flush(&mut self, jobs: &[Job], lock: Lock) -> Result<Vec<Outcome>, Failure> {
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        let started = Instant::now();
        let span = spans::shared("flush", jobs.iter().map(|job| &job.span));
        let result = self.flush_within_limit(jobs, lock).instrument(span).await;
        let seconds = started.elapsed().as_secs_f64();
        self.metrics.flushes.seconds.observe(seconds);
        match &result {
            Ok(outcomes) => {
                count(jobs, outcomes, &self.metrics.flushes);
                self.announcer.announce(&grown_spirits(outcomes));
            }
            Err(_) => self.metrics.flushes.failures.inc(),
        }
        result
    }

    async fn flush_within_limit(&mut self, jobs: &[Job], lock: Lock) -> Result<Vec<Outcome>, Failure> {
        let limit = self.settings.flush_timeout;
        let mut session = match timeout(limit, self.connection.session()).await {
            Ok(connected) => connected.map_err(|error| Failure::uncommitted(error.into()))?,
            Err(_) => return Err(Failure::uncommitted(no_answer())),
        };
        // The statements have their own limit; this one is for a network that drops everything. A panic may
        // have come after the commit.
        let flushed = timeout(limit * 2, caught(self.fast_or_full(&mut session, jobs, lock))).await;
        let flushed = flushed.map_err(|_| Failure::unknown(no_answer()))?;
        let outcomes = flushed.unwrap_or_else(|panicked| Err(Failure::unknown(panicked.into())))?;
        // After an error the state of the connection is unknown; the next flush opens a new one.
        self.connection.put_back(session);
        Ok(outcomes)
    }

    /// Takes the fast path if no job needs a decision and no dedupe key was taken lately.
    async fn fast_or_full(
        &mut self,
        session: &mut PgSession,
        jobs: &[Job],
        lock: Lock,
    ) -> Result<Vec<Outcome>, Failure> {
        if lock == Lock::Skip && self.full_flushes == 0 && fast_path::is_eligible(jobs) {
            if let Some(outcomes) = fast_path::insert_and_commit(session, jobs).await? {
                return Ok(outcomes);
            }
            self.full_flushes = FULL_FLUSHES;
        }
        let outcomes = decide_and_commit(session, jobs, lock).await?;
        self.full_flushes = if outcomes.iter().any(|outcome| outcome.duplicates() > 0) {
            FULL_FLUSHES
        } else {
            self.full_flushes.saturating_sub(1)
        };
        Ok(outcomes)
    }
}

fn count(jobs: &[Job], outcomes: &[Outcome], flushes: &Flushes) {
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

/// The spirits that have new events.
fn grown_spirits(outcomes: &[Outcome]) -> Vec<SpiritId> {
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
    /// Jobs that wait for this spirit.
    locked: Vec<(SpiritId, Job)>,
    /// Jobs for a full flush.
    undecided: Vec<Job>,
}

fn answer_all(jobs: Vec<Job>, outcomes: Vec<Outcome>) -> Remaining {
    let mut remaining = Remaining::default();
    for (job, outcome) in jobs.into_iter().zip(outcomes) {
        match outcome {
            Outcome::Decided(decided) => job.answer(Ok(decided)),
            Outcome::Locked(spirit_id) => remaining.locked.push((spirit_id, job)),
            Outcome::Undecided => remaining.undecided.push(job),
        }
    }
    remaining
}
