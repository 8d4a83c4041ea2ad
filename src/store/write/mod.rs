//! Writes: creates of events through a bounded queue and group commit, edits, and creates of spirits.
//!
//! [`EventWriter`] queues a create as a [`Job`]. A [`Writer`] on a thread of its own takes what was queued
//! during the previous commit and commits it as one flush, so a lone caller waits for no timer. A caller may
//! go away at any time; no caller can cancel a flush.

mod arguments;
mod edits;
pub(super) mod fast_path;
pub(super) mod flush;
mod job;
mod locked_spirits;
mod outcome;
mod queue;
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
use tokio_util::task::task_tracker::TaskTrackerToken;

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
use crate::panics::keep_running;

pub(super) use edits::{UPDATE_EVENT, UPDATE_SPIRIT};
pub(super) use spirits::INSERT_SPIRIT;

/// Bounds of the write path.
#[derive(Clone, Copy, Debug)]
pub struct IngestSettings {
    /// Number of writers. Each has a thread and a connection of its own, and writes a share of the spirits.
    pub writers: usize,
    /// Events that may be queued or in a flush.
    pub queue_items_max: usize,
    /// Approximate bytes of these events.
    pub queue_bytes_max: usize,
    /// Events after which a flush takes no further request.
    pub flush_items_max: usize,
    /// Time limit of a flush, waiting for locks included.
    pub flush_timeout: Duration,
}

/// Stores events and edits. Cheap to clone.
#[derive(Clone)]
pub struct EventWriter {
    /// One queue per writer.
    queues: Arc<[mpsc::UnboundedSender<Job>]>,
    /// Unary calls and streams have half of the capacity each, so that neither starves the other. A call is
    /// refused when its half is full; a stream waits.
    calls: QueueBudget,
    streams: QueueBudget,
    /// Calls refused since the last warning about them.
    refused: Arc<AtomicU64>,
    closing: CancellationToken,
    writers: TaskTracker,
    pool: ConnectionPool,
    reads: ReadRouter,
    announcer: Announcer,
    metrics: StoreMetrics,
}

/// A queued create; resolves to its result after the commit. Dropping it before a flush has taken it up
/// withdraws the create.
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
        let queues = (0..settings.writers).map(|_| {
            let (sender, queue) = mpsc::unbounded_channel();
            let (writer, refused) = (writer.sibling(), Arc::clone(&refused));
            let run = GroupCommit {
                writer,
                locked: Arc::default(),
                refused,
                waiting: TaskTracker::new(),
            };
            start_thread(run, queue, closing.clone(), writers.token());
            sender
        });
        let queues = queues.collect();
        writers.close();
        let half = QueueBudget::new(settings.queue_items_max / 2, settings.queue_bytes_max / 2);
        Self {
            queues,
            streams: QueueBudget::new(settings.queue_items_max / 2, settings.queue_bytes_max / 2),
            calls: half,
            refused,
            closing,
            writers,
            pool,
            reads,
            announcer,
            metrics,
        }
    }

    /// Stores one event and returns after the commit.
    pub async fn create(&self, event: NewEvent) -> Result<Created, StoreError> {
        let events = vec![event];
        let permit = self.calls.try_acquire(&events);
        let permit = permit.ok_or_else(|| self.overloaded())?;
        Queued(self.send(events, BatchMode::Partial, permit)?).await
    }

    /// Stores events in order and returns after the commit, with a result for each.
    pub async fn create_batch(
        &self,
        events: Vec<NewEvent>,
        mode: BatchMode,
    ) -> Result<Vec<Result<Created, StoreError>>, StoreError> {
        let permit = self.calls.try_acquire(&events);
        let permit = permit.ok_or_else(|| self.overloaded())?;
        let answer = self.send(events, mode, permit)?;
        answer.await.map_err(unanswered)?.into_results()
    }

    /// Queues one event of a stream, waiting for capacity. Events that one caller queues one after another
    /// are stored in that order per spirit.
    pub async fn enqueue(&self, event: NewEvent) -> Result<Queued, StoreError> {
        let events = vec![event];
        let permit = self.streams.acquire(&events).await?;
        Ok(Queued(self.send(events, BatchMode::Partial, permit)?))
    }

    /// Refuses further requests, commits the queued ones and ends the writers.
    pub(super) async fn close(&self) {
        self.closing.cancel();
        self.writers.wait().await;
    }

    /// How full the queue is, for unary calls and for ingest streams.
    pub(super) fn queue_usage(&self) -> [(&'static str, QueueUsage); 2] {
        [("calls", self.calls.usage()), ("streams", self.streams.usage())]
    }

    /// Counts a refused call.
    fn overloaded(&self) -> StoreError {
        self.refused.fetch_add(1, Ordering::Relaxed);
        self.metrics.queue.overloads.inc();
        StoreError::Overloaded
    }

    fn send(
        &self,
        events: Vec<NewEvent>,
        mode: BatchMode,
        permit: QueuePermit,
    ) -> Result<oneshot::Receiver<Answer>, StoreError> {
        let queue = &self.queues[writer_of(&events, self.queues.len())];
        let (job, answer) = Job::new(events, mode, permit);
        queue.send(job).map_err(|_| StoreError::Closing)?;
        Ok(answer)
    }
}

/// The index of the writer of a request: that of its first spirit, so that a spirit's events keep the order in
/// which one caller sends them.
fn writer_of(events: &[NewEvent], writers: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    events.first().map(|event| event.spirit_id).hash(&mut hasher);
    usize::try_from(hasher.finish() % writers as u64).unwrap_or_default()
}

/// Takes jobs from one queue and commits them together.
struct GroupCommit {
    writer: Writer,
    locked: Arc<LockedSpirits>,
    refused: Arc<AtomicU64>,
    /// Tasks that wait for locks.
    waiting: TaskTracker,
}

/// Runs the writer on a thread and a runtime of its own. On the threads that serve calls, each of its round
/// trips would queue behind calls that are ready to run.
fn start_thread(
    run: GroupCommit,
    queue: mpsc::UnboundedReceiver<Job>,
    closing: CancellationToken,
    token: TaskTrackerToken,
) {
    let started = std::thread::Builder::new()
        .name("events-writer".to_owned())
        .spawn(move || {
            let _token = token; // dropped when the writer has ended
            match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime.block_on(run.run(queue, closing)),
                Err(error) => tracing::error!(%error, "the writer cannot start; creates are refused"),
            }
        });
    if let Err(error) = started {
        tracing::error!(%error, "the writer's thread cannot start; creates are refused");
    }
}

impl GroupCommit {
    /// Runs until the queue is closed and empty and no job waits for a lock.
    async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Job>, closing: CancellationToken) {
        keep_running("writer", async || self.drain(&mut queue, &closing).await).await;
        self.waiting.close();
        self.waiting.wait().await;
    }

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
                self.locked.wait(spirit_id, job, &self.writer, &self.waiting);
            }
            let refused = self.refused.swap(0, Ordering::Relaxed);
            if refused > 0 {
                tracing::warn!(refused, "the queue was full, calls were refused");
            }
        }
    }

    /// Returns the queued jobs, up to the size of a flush. A job of a spirit that is known to be locked is
    /// queued behind the other jobs of that spirit instead.
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
