//! The write path: creates of events through a bounded queue and group commit, edits, and creates of spirits.
//!
//! [`EventWriter`] queues a create as a [`Job`]. A [`Writer`] in a task of its own takes the jobs that were
//! queued during the previous commit and commits them as one flush, so a single job does not wait for a timer. A
//! flush that has started continues when a caller goes away.

mod arguments;
pub(super) mod copy_events;
pub(super) mod copy_path;
pub(super) mod dedupe_keys;
pub(super) mod deletion_statements;
mod deletions;
mod edits;
pub(super) mod event_updates;
pub(super) mod fast_path;
pub(super) mod flush;
mod job;
mod literals;
mod locked_spirits;
mod outcome;
mod queue;
pub(super) mod session_activity;
pub(super) mod session_last_sequences;
mod sessions;
mod spirits;
mod writer;

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use event_updates::EventUpdates;
use flush::Lock;
use job::{Answer, Job};
use locked_spirits::LockedSpirits;
use queue::{QueueBudget, QueuePermit};
use writer::Writer;

use super::live::Announcer;
use super::pg::error::{StoreError, unanswered};
use super::pg::metrics::{QueueUsage, StoreMetrics};
use super::pg::pool::ConnectionPool;
use super::pg::session::Connector;
use super::read::ReadRouter;
use crate::domain::event::{BatchMode, Created, NewEvent};
use crate::domain::ids::SpiritId;
use crate::panics::keep_running;

pub(super) use edits::UPDATE_SPIRIT;
pub(super) use sessions::UPDATE_SESSION;
pub(super) use spirits::INSERT_SPIRIT;

/// Settings of the write path.
#[derive(Clone, Copy, Debug)]
pub struct IngestSettings {
    /// Number of writers. Each has a task and a connection of its own and stores the events of a part of the
    /// spirits.
    pub writers: usize,
    /// Maximum number of events that are queued or in a flush.
    pub queue_items_max: usize,
    /// Maximum of the approximate bytes of these events.
    pub queue_bytes_max: usize,
    /// Number of events at which a flush takes no further request.
    pub flush_items_max: usize,
    /// Time limit of each statement of a flush, lock waits included, and of connecting. The statements of a flush
    /// together may take twice as long.
    pub flush_timeout: Duration,
}

/// Stores events and spirits and edits them. Cheap to clone.
#[derive(Clone)]
pub struct EventWriter {
    /// One queue per writer.
    queues: Arc<[mpsc::UnboundedSender<Job>]>,
    /// Half of the queue's capacity, for unary calls, which are refused when it is used up. Calls and streams have
    /// a budget each, so that neither can starve the other.
    calls: QueueBudget,
    /// The other half, for ingest streams, which wait when it is used up.
    streams: QueueBudget,
    /// Number of calls refused since the last log line about refused calls.
    refused: Arc<AtomicU64>,
    closing: CancellationToken,
    writers: TaskTracker,
    updates: EventUpdates,
    pool: ConnectionPool,
    reads: ReadRouter,
    announcer: Announcer,
    metrics: StoreMetrics,
}

/// A queued create; resolves to its result after the commit. Dropping it before its flush starts withdraws
/// the create.
#[derive(Debug)]
pub struct Queued(oneshot::Receiver<Answer>);

impl Future for Queued {
    type Output = Result<Created, StoreError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.0).poll(cx)).map_err(unanswered)?;
        let result = answer.into_results()?.pop();
        Poll::Ready(result.unwrap_or_else(|| Err(StoreError::Bug("a create without a result".to_owned()))))
    }
}

impl EventWriter {
    /// Starts the writers, which run until [`close`](Self::close) or until the last clone is dropped.
    pub(super) fn start(
        connector: Connector,
        settings: IngestSettings,
        pool: ConnectionPool,
        reads: ReadRouter,
        announcer: Announcer,
        metrics: StoreMetrics,
    ) -> Self {
        let writers = TaskTracker::new();
        let closing = CancellationToken::new();
        let refused = Arc::default();
        let writer = Writer::new(connector, settings, announcer.clone(), metrics.clone());
        let locked: Arc<[Arc<LockedSpirits>]> = (0..settings.writers).map(|_| Arc::default()).collect();
        let queues = locked.iter().map(|locked| {
            let (sender, queue) = mpsc::unbounded_channel();
            let group_commit = GroupCommit {
                writer: writer.sibling(),
                locked: Arc::clone(locked),
                refused: Arc::clone(&refused),
                waiting: TaskTracker::new(),
            };
            writers.spawn(group_commit.run(queue, closing.clone()));
            sender
        });
        let queues = queues.collect();
        writers.close();
        let half = || QueueBudget::new(settings.queue_items_max / 2, settings.queue_bytes_max / 2);
        Self {
            queues,
            calls: half(),
            streams: half(),
            refused,
            closing,
            writers,
            updates: EventUpdates::new(pool.clone(), announcer.clone(), metrics.clone(), locked),
            pool,
            reads,
            announcer,
            metrics,
        }
    }

    /// Stores one event and returns its result after the commit.
    pub async fn create(&self, event: NewEvent) -> Result<Created, StoreError> {
        let events = vec![event];
        let permit = self.calls.try_acquire(&events);
        let permit = permit.ok_or_else(|| self.overloaded())?;
        Queued(self.send(events, BatchMode::Partial, permit)).await
    }

    /// Stores events in order and returns a result for each event after the commit.
    pub async fn create_batch(
        &self,
        events: Vec<NewEvent>,
        mode: BatchMode,
    ) -> Result<Vec<Result<Created, StoreError>>, StoreError> {
        let permit = self.calls.try_acquire(&events);
        let permit = permit.ok_or_else(|| self.overloaded())?;
        let answer = self.send(events, mode, permit);
        answer.await.map_err(unanswered)?.into_results()
    }

    /// Queues one event of an ingest stream; waits until the queue has capacity. Events of one spirit are stored in
    /// the order in which a caller queues them.
    pub async fn enqueue(&self, event: NewEvent) -> Result<Queued, StoreError> {
        let events = vec![event];
        let permit = self.streams.acquire(&events).await?;
        Ok(Queued(self.send(events, BatchMode::Partial, permit)))
    }

    /// Refuses further creates, commits the queued ones and ends the writers.
    pub(super) async fn close(&self) {
        self.closing.cancel();
        self.writers.wait().await;
    }

    /// Returns the usage of the queue by unary calls and by ingest streams, each with its metric label.
    pub(super) fn queue_usage(&self) -> [(&'static str, QueueUsage); 2] {
        [("calls", self.calls.usage()), ("streams", self.streams.usage())]
    }

    /// Counts a refused call and returns its error.
    fn overloaded(&self) -> StoreError {
        self.refused.fetch_add(1, Ordering::Relaxed);
        self.metrics.queue.overloads.inc();
        StoreError::Overloaded
    }

    /// Queues a job for the writer of its spirit. A job whose items may be stored independently is split among the
    /// writers of their spirits; its capacity is reserved for all of them.
    fn send(&self, events: Vec<NewEvent>, mode: BatchMode, permit: QueuePermit) -> oneshot::Receiver<Answer> {
        let writers = self.queues.len();
        let (job, answer) = Job::new(events, mode, permit);
        let shares = job.divide_by(writers, |_, event| writer_index(event.spirit_id, writers));
        for job in shares {
            let spirit_id = job.items.first().map_or(SpiritId::NONE, |event| event.spirit_id);
            if let Err(unsent) = self.queues[writer_index(spirit_id, writers)].send(job) {
                unsent.0.answer(Err(StoreError::Closing));
            }
        }
        answer
    }
}

/// Returns the index of the writer of a spirit, so that requests for it are stored in the order in which they are
/// queued. A job that is not split goes to the writer of its first spirit.
fn writer_index(spirit_id: SpiritId, writers: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    spirit_id.hash(&mut hasher);
    usize::try_from(hasher.finish() % writers as u64).unwrap_or_default()
}

/// Takes jobs from the queue of one writer and commits them together.
struct GroupCommit {
    writer: Writer,
    locked: Arc<LockedSpirits>,
    refused: Arc<AtomicU64>,
    /// Tasks that wait for the locks of spirits.
    waiting: TaskTracker,
}

impl GroupCommit {
    /// Commits jobs until the queue is closed and empty and no job waits for a lock.
    async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Job>, closing: CancellationToken) {
        let waiting = self.waiting.clone();
        keep_running("writer", async move || self.drain(&mut queue, &closing).await).await;
        waiting.close();
        waiting.wait().await;
    }

    /// Commits the queued jobs until the queue is closed and empty.
    async fn drain(&mut self, queue: &mut mpsc::UnboundedReceiver<Job>, closing: &CancellationToken) {
        loop {
            let first = tokio::select! {
                biased; // a caller that keeps sending must not keep the queue open
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
            for (spirit_id, job) in self.writer.write(jobs, Lock::Skip).await {
                self.locked.enqueue(spirit_id, job, &self.writer, &self.waiting);
            }
            let refused = self.refused.swap(0, Ordering::Relaxed);
            if refused > 0 {
                tracing::warn!(refused, "calls were refused because the write queue was full");
            }
        }
    }

    /// Takes jobs from the queue, up to the size of a flush. A job of a spirit that is known to be locked goes to
    /// the queue of that spirit instead.
    fn gather(&self, first: Job, queue: &mut mpsc::UnboundedReceiver<Job>) -> Vec<Job> {
        let mut jobs = Vec::new();
        let mut items = 0;
        let mut next = Some(first);
        while let Some(job) = next {
            if let Some(job) = self.locked.queue_if_locked(job) {
                items += job.items.len();
                jobs.push(job);
            }
            if items >= self.writer.flush_items_max() {
                break;
            }
            next = queue.try_recv().ok();
        }
        jobs
    }
}
