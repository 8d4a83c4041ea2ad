//! The writer: takes jobs from the queue, flushes them together, answers each.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::IngestSettings;
use super::flush::{Lock, flush};
use super::held::LockedSpirits;
use super::job::Job;
use super::outcome::{Failure, Outcome};
use super::plain::{flush_plain, is_plain};
use crate::domain::ids::SpiritId;
use crate::panics::{caught, keep_running};
use crate::store::pg::pool::TRUSTED_FOR;
use crate::store::pg::session::{Connector, PgSession};
use crate::store::live::Changes;
use crate::store::pg::metrics::{Flushes, StoreMetrics};
use crate::store::pg::error::StoreError;
use crate::store::pg::spans;

pub(super) struct Writer {
    lane: FlushConnection,
    held: Arc<LockedSpirits>,
    refused: Arc<AtomicU64>,
    /// Those that wait for locks.
    tasks: TaskTracker,
}

/// A connection of its own, made when it is first needed and again after it was lost.
pub(in crate::store) struct FlushConnection {
    link: Connector,
    settings: IngestSettings,
    changes: Changes,
    pub(super) metrics: StoreMetrics,
    idle: Option<Idle>,
    /// Flushes that are to look for taken keys first, since some were taken lately.
    careful: u32,
}

struct Idle {
    session: PgSession,
    since: Instant,
}

/// Flushes without a taken key after which keys are no longer looked for first.
const CAREFUL_FLUSHES: u32 = 16;

impl Writer {
    pub(super) fn new(lane: FlushConnection, refused: Arc<AtomicU64>) -> Self {
        Self {
            lane,
            held: Arc::default(),
            refused,
            tasks: TaskTracker::new(),
        }
    }

    /// Runs until the queue is closed and empty, and nothing waits for a lock any more.
    pub(super) async fn run(mut self, mut queue: UnboundedReceiver<Job>, closing: CancellationToken) {
        keep_running("writer", async || self.work_off(&mut queue, &closing).await).await;
        self.tasks.close();
        self.tasks.wait().await;
    }

    async fn work_off(&mut self, queue: &mut UnboundedReceiver<Job>, closing: &CancellationToken) {
        loop {
            let first = tokio::select! {
                biased; // whoever goes on sending does not keep it open
                () = closing.cancelled(), if !queue.is_closed() => {
                    queue.close();
                    continue;
                }
                job = queue.recv() => job,
            };
            let Some(first) = first else { return };
            let jobs = self.gather(first, queue);
            if jobs.is_empty() {
                continue;
            }
            for (spirit_id, job) in self.lane.flush(jobs, Lock::Skip).await {
                self.held.put(spirit_id, job, &self.lane, &self.tasks);
            }
            let refused = self.refused.swap(0, Ordering::Relaxed);
            if refused > 0 {
                tracing::warn!(refused, "the queue was full, calls were refused");
            }
        }
    }

    /// What has queued up to now, up to a flush's size. What concerns a spirit that is held goes
    /// behind the jobs that wait for it.
    fn gather(&self, first: Job, queue: &mut UnboundedReceiver<Job>) -> Vec<Job> {
        let mut jobs = Vec::new();
        let mut items = 0;
        let mut next = Some(first);
        while let Some(job) = next {
            if let Some(job) = self.held.queue(job) {
                items += job.items.len();
                jobs.push(job);
            }
            if items >= self.lane.settings.flush_items_max {
                break;
            }
            next = queue.try_recv().ok();
        }
        jobs
    }
}

impl FlushConnection {
    pub(in crate::store) fn new(
        link: Connector,
        settings: IngestSettings,
        changes: Changes,
        metrics: StoreMetrics,
    ) -> Self {
        let millis = settings.flush_timeout.as_millis().to_string();
        Self {
            link: link.with([
                ("statement_timeout", millis.as_str()),
                // A lane that vanishes with its host inside a transaction must not hold its spirits for long.
                ("idle_in_transaction_session_timeout", millis.as_str()),
            ]),
            settings,
            changes,
            metrics,
            idle: None,
            careful: 0,
        }
    }

    /// Another one to the same database.
    pub(super) fn sibling(&self) -> Self {
        Self {
            link: self.link.clone(),
            settings: self.settings,
            changes: self.changes.clone(),
            metrics: self.metrics.clone(),
            idle: None,
            careful: 0,
        }
    }

    /// Stores the jobs and answers them; returns those that wait for a spirit that someone else holds.
    ///
    /// A flush that failed before its commit changed nothing: on a lost connection it runs once more, as on
    /// one to a database that takes no writes any more, since a new one may lead to the one that does. On an
    /// error of the data its jobs run apart, so that none fails its neighbours.
    pub(super) async fn flush(&mut self, mut jobs: Vec<Job>, lock: Lock) -> Vec<(SpiritId, Job)> {
        // Nobody waits for these, and nothing of them has been done.
        jobs.retain(|job| !job.is_abandoned());
        let mut outcome = self.attempt(&jobs, lock).await;
        if let Err(failure) = &outcome
            && failure.uncommitted
            && matches!(
                failure.error,
                StoreError::Unavailable(_) | StoreError::ReadOnly(_)
            )
        {
            outcome = self.attempt(&jobs, lock).await;
        }
        match outcome {
            Ok(outcomes) => {
                let Left { mut held, undecided } = answer_all(jobs, outcomes);
                if !undecided.is_empty() {
                    self.careful = self.careful.max(1);
                    held.extend(Box::pin(self.flush(undecided, lock)).await);
                }
                held
            }
            Err(failure)
                if failure.uncommitted
                    && matches!(failure.error, StoreError::Bug(_))
                    && (jobs.len() > 1 || jobs.iter().any(Job::is_divisible)) =>
            {
                tracing::error!(error = %failure.error, jobs = jobs.len(), "flush failed on its data; storing its requests apart");
                self.flush_apart(jobs, lock).await
            }
            Err(failure) => {
                for job in jobs {
                    job.answer(Err(failure.error.clone()));
                }
                Vec::new()
            }
        }
    }

    /// Stores the jobs one by one; the items of a single one, where its mode allows it.
    async fn flush_apart(&mut self, mut jobs: Vec<Job>, lock: Lock) -> Vec<(SpiritId, Job)> {
        if jobs.len() == 1 {
            jobs = jobs.into_iter().flat_map(Job::divide).collect();
        }
        let mut held: Vec<(SpiritId, Job)> = Vec::new();
        for job in jobs {
            // What has to wait for a spirit stays before what came behind it.
            let behind = held.iter().map(|(id, _)| *id).find(|id| job.concerns(*id));
            match behind {
                Some(spirit_id) => held.push((spirit_id, job)),
                None => held.extend(Box::pin(self.flush(vec![job], lock)).await),
            }
        }
        held
    }

    async fn attempt(&mut self, jobs: &[Job], lock: Lock) -> Result<Vec<Outcome>, Failure> {
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        let started = Instant::now();
        let span = spans::shared("flush", jobs.iter().map(|job| &job.span));
        let result = self.try_once(jobs, lock).instrument(span).await;
        self.metrics
            .flushes
            .seconds
            .observe(started.elapsed().as_secs_f64());
        match &result {
            Ok(outcomes) => count(jobs, outcomes, &self.metrics.flushes),
            Err(_) => self.metrics.flushes.failures.inc(),
        }
        result
    }

    async fn try_once(&mut self, jobs: &[Job], lock: Lock) -> Result<Vec<Outcome>, Failure> {
        let limit = self.settings.flush_timeout;
        let mut session = match timeout(limit, self.session()).await {
            Ok(connected) => connected.map_err(|error| Failure::uncommitted(error.into()))?,
            Err(_) => return Err(Failure::uncommitted(no_answer())),
        };
        // The statements have their own limit; this one is for a network that swallows everything.
        // Where it is not known that a panic came before the commit, it may have come after it.
        let stored = timeout(limit * 2, caught(self.store(&mut session, jobs, lock)));
        let stored = stored.await.map_err(|_| Failure::unknown(no_answer()))?;
        let result = stored.unwrap_or_else(|panicked| Err(Failure::unknown(panicked.into())));
        // After an error the connection's state is unknown, so it goes; the next flush makes a new one.
        if let Ok(outcomes) = &result {
            self.idle = Some(Idle {
                session,
                since: Instant::now(),
            });
            self.changes.announce(&grown_spirits(outcomes));
        }
        result
    }

    /// One that was idle for long is asked whether it lives: what fails on a dead one may have been stored
    /// for all that is known.
    async fn session(&mut self) -> Result<PgSession, sqlx::Error> {
        if let Some(Idle { mut session, since }) = self.idle.take()
            && (since.elapsed() < TRUSTED_FOR || session.lives().await)
        {
            return Ok(session);
        }
        self.link.connect().await
    }

    async fn store(
        &mut self,
        session: &mut PgSession,
        jobs: &[Job],
        lock: Lock,
    ) -> Result<Vec<Outcome>, Failure> {
        if lock == Lock::Skip && self.careful == 0 && is_plain(jobs) {
            if let Some(outcomes) = flush_plain(session, jobs).await? {
                return Ok(outcomes);
            }
            self.careful = CAREFUL_FLUSHES;
        }
        let outcomes = flush(session, jobs, lock).await?;
        self.careful = if outcomes.iter().any(|outcome| outcome.duplicates() > 0) {
            CAREFUL_FLUSHES
        } else {
            self.careful.saturating_sub(1)
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

/// What a flush left.
#[derive(Default)]
struct Left {
    /// Waits for this spirit.
    held: Vec<(SpiritId, Job)>,
    /// Is to be decided by the full flush.
    undecided: Vec<Job>,
}

fn answer_all(jobs: Vec<Job>, outcomes: Vec<Outcome>) -> Left {
    let mut left = Left::default();
    for (job, outcome) in jobs.into_iter().zip(outcomes) {
        match outcome {
            Outcome::Decided(decided) => job.answer(Ok(decided)),
            Outcome::Held(spirit_id) => left.held.push((spirit_id, job)),
            Outcome::Undecided => left.undecided.push(job),
        }
    }
    left
}
