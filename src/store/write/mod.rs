//! The write path of new events: a bounded queue and a writer that commits what has gathered.
//!
//! Callers put [`Job`]s into the queue and wait; they can go away at any time. The
//! [`writer`] takes what has queued while the commit before ran, so a lone caller waits for no
//! timer, and [`flush`] stores it in one transaction. Both run in tasks that no caller cancels.

mod flush;
mod held;
mod job;
mod outcome;
mod plain;
mod writer;

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use prometheus::IntCounter;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

pub(super) use flush::statements;

use job::{Answer, Decided, Job, QueuePermit};
use writer::Writer;

pub(super) use writer::FlushConnection;

use crate::store::pg::error::unanswered;
use crate::store::pg::error::StoreError;
use crate::store::Store;
use crate::domain::Time;
use crate::domain::admission::Admitted;
use crate::domain::event::{BatchMode, Created, NewEvent};

/// Bounds of the write path.
#[derive(Clone, Copy, Debug)]
pub struct IngestSettings {
    /// Writers, each with a thread and a connection of its own and its share of the spirits.
    pub writers: usize,
    /// Events that may wait or be in a flush.
    pub queue_items_max: usize,
    /// Bytes that these may have, about.
    pub queue_bytes_max: usize,
    /// Events after which a flush takes no further request.
    pub flush_items_max: usize,
    /// How long a flush may take, waiting for locks included.
    pub flush_timeout: Duration,
}

/// Permits of the queue's byte bound stand for this many bytes each.
const BYTES_PER_PERMIT: usize = 1024;

/// The way into the write path. Cheap to clone.
#[derive(Clone)]
pub(super) struct Ingest {
    /// One for each writer, which has its share of the spirits.
    jobs: Arc<[mpsc::UnboundedSender<Job>]>,
    /// Half of the queue each, so that neither starves the other: unary calls are refused when theirs
    /// is full, streams wait.
    calls: QueueBudget,
    streams: QueueBudget,
    /// Calls refused since the writer last said so in the log.
    refused: Arc<AtomicU64>,
    overloads: IntCounter,
    closing: CancellationToken,
    tasks: TaskTracker,
}

/// A share of the queue, in items and bytes.
#[derive(Clone)]
struct QueueBudget {
    items: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    items_max: usize,
    bytes_max: usize,
}

/// How full a share of the queue is.
pub(super) struct QueueUsage {
    pub(super) events: usize,
    pub(super) events_max: usize,
    pub(super) bytes: usize,
    pub(super) bytes_max: usize,
}

/// A create in the queue; gives what became of it, after the commit. Dropping it before a flush has
/// taken it up drops the create.
#[derive(Debug)]
pub struct Queued(oneshot::Receiver<Answer>);

impl Future for Queued {
    type Output = Result<Created, StoreError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.0).poll(cx)).map_err(unanswered)?;
        let result = results(answer)?.pop();
        Poll::Ready(result.unwrap_or_else(|| Err(StoreError::Bug("a create without a result".to_owned()))))
    }
}

impl Ingest {
    /// Starts the writer, which lives until [`close`](Self::close) or until every clone is dropped.
    pub(super) fn start(lane: FlushConnection, settings: IngestSettings) -> Self {
        let tasks = TaskTracker::new();
        let closing = CancellationToken::new();
        let refused = Arc::default();
        let overloads = lane.metrics.queue.overloads.clone();
        let start = |_| {
            let (jobs, queue) = mpsc::unbounded_channel();
            let writer = Writer::new(lane.sibling(), Arc::clone(&refused));
            start_thread(writer, queue, closing.clone(), tasks.token());
            jobs
        };
        let jobs = (0..settings.writers).map(start).collect();
        tasks.close();
        Self {
            jobs,
            calls: QueueBudget::half(settings),
            streams: QueueBudget::half(settings),
            refused,
            overloads,
            closing,
            tasks,
        }
    }

    /// Takes no further jobs, finishes the queued ones and ends the writer.
    pub(super) async fn close(&self) {
        self.closing.cancel();
        self.tasks.wait().await;
    }

    /// How full the queue is, for unary calls and for ingest streams.
    pub(super) fn rooms(&self) -> [(&'static str, QueueUsage); 2] {
        [("calls", self.calls.usage()), ("streams", self.streams.usage())]
    }

    /// Counts a refused call.
    fn overloaded(&self) -> StoreError {
        self.refused.fetch_add(1, Ordering::Relaxed);
        self.overloads.inc();
        StoreError::Overloaded
    }

    fn queue(
        &self,
        items: Vec<NewEvent>,
        mode: BatchMode,
        share: QueuePermit,
    ) -> Result<oneshot::Receiver<Answer>, StoreError> {
        let writer = writer_of(&items, self.jobs.len());
        let (job, answer) = Job::new(items, mode, share);
        self.jobs[writer].send(job).map_err(|_| StoreError::Closing)?;
        Ok(answer)
    }
}

/// The writer of a request: that of its first spirit, so that a spirit's events keep the order in which one
/// caller sends them.
fn writer_of(items: &[NewEvent], writers: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    items.first().map(|item| item.spirit_id).hash(&mut hasher);
    usize::try_from(hasher.finish() % writers as u64).unwrap_or_default()
}

/// Runs the writer on a thread of its own: on those that serve calls each of its round trips would wait
/// for the calls whose turn it is. The token goes with the writer.
fn start_thread(
    writer: Writer,
    queue: mpsc::UnboundedReceiver<Job>,
    closing: CancellationToken,
    token: TaskTrackerToken,
) {
    let started = std::thread::Builder::new()
        .name("events-writer".to_owned())
        .spawn(move || {
            let _token = token;
            match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime.block_on(writer.run(queue, closing)),
                Err(error) => tracing::error!(%error, "the writer cannot start; creates are refused"),
            }
        });
    if let Err(error) = started {
        tracing::error!(%error, "the writer's thread cannot start; creates are refused");
    }
}

impl QueueBudget {
    fn half(settings: IngestSettings) -> Self {
        let items_max = (settings.queue_items_max / 2).max(1);
        let bytes_max = (settings.queue_bytes_max / 2 / BYTES_PER_PERMIT).max(1);
        Self {
            items: Arc::new(Semaphore::new(items_max)),
            bytes: Arc::new(Semaphore::new(bytes_max)),
            items_max,
            bytes_max,
        }
    }

    fn usage(&self) -> QueueUsage {
        let bytes = self.bytes_max.saturating_sub(self.bytes.available_permits());
        QueueUsage {
            events: self.items_max.saturating_sub(self.items.available_permits()),
            events_max: self.items_max,
            bytes: bytes * BYTES_PER_PERMIT,
            bytes_max: self.bytes_max * BYTES_PER_PERMIT,
        }
    }

    /// QueueBudget for the items if there is any now.
    fn take(&self, items: &[NewEvent]) -> Option<QueuePermit> {
        let (count, bytes) = self.permits(items);
        let items = Arc::clone(&self.items).try_acquire_many_owned(count).ok()?;
        let bytes = Arc::clone(&self.bytes).try_acquire_many_owned(bytes).ok()?;
        Some([items, bytes])
    }

    /// QueueBudget for the items, in the order of the callers.
    async fn wait(&self, items: &[NewEvent]) -> Result<QueuePermit, StoreError> {
        let (count, bytes) = self.permits(items);
        let items = Arc::clone(&self.items).acquire_many_owned(count).await;
        let bytes = Arc::clone(&self.bytes).acquire_many_owned(bytes).await;
        match (items, bytes) {
            (Ok(items), Ok(bytes)) => Ok([items, bytes]),
            _ => Err(StoreError::Closing),
        }
    }

    /// Permits for the items. A request larger than the whole share gets all of it.
    fn permits(&self, items: &[NewEvent]) -> (u32, u32) {
        let bytes: usize = items.iter().map(NewEvent::size).sum();
        let permits = |wanted: usize, max: usize| u32::try_from(wanted.clamp(1, max)).unwrap_or(u32::MAX);
        (
            permits(items.len(), self.items_max),
            permits(bytes / BYTES_PER_PERMIT, self.bytes_max),
        )
    }
}

impl Store {
    /// Stores one event and returns after the commit.
    pub async fn create_event(&self, event: NewEvent) -> Result<Created, StoreError> {
        let items = vec![event];
        let Some(room) = self.ingest.calls.take(&items) else {
            return Err(self.ingest.overloaded());
        };
        Queued(self.ingest.queue(items, BatchMode::Partial, room)?).await
    }

    /// Queues one event of a stream, waiting for room; events that one caller queues one after another
    /// take effect in that order per spirit.
    pub async fn enqueue_event(&self, event: NewEvent) -> Result<Queued, StoreError> {
        let items = vec![event];
        let room = self.ingest.streams.wait(&items).await?;
        Ok(Queued(self.ingest.queue(items, BatchMode::Partial, room)?))
    }

    /// Stores events one after another and returns after the commit, with a result for each.
    pub async fn create_events(
        &self,
        events: Vec<NewEvent>,
        mode: BatchMode,
    ) -> Result<Vec<Result<Created, StoreError>>, StoreError> {
        let Some(room) = self.ingest.calls.take(&events) else {
            return Err(self.ingest.overloaded());
        };
        let answer = self.ingest.queue(events, mode, room)?;
        results(answer.await.map_err(unanswered)?)
    }
}

/// A result for each item, in order.
fn results(answer: Answer) -> Result<Vec<Result<Created, StoreError>>, StoreError> {
    match answer {
        Answer::Whole(decided) => decided.and_then(of_whole),
        Answer::Apart(outcomes) => {
            let result = |decided: Result<Decided, StoreError>| match decided.and_then(of_whole) {
                Ok(results) => results,
                Err(error) => vec![Err(error)],
            };
            Ok(outcomes.into_iter().flat_map(result).collect())
        }
    }
}

fn of_whole(decided: Decided) -> Result<Vec<Result<Created, StoreError>>, StoreError> {
    let Decided { verdict, now } = decided;
    let results = verdict.map_err(StoreError::BatchRefused)?;
    Ok(results
        .into_iter()
        .map(|result| Ok(created(result?, now)))
        .collect())
}

fn created(admitted: Admitted, now: Time) -> Created {
    match admitted {
        Admitted::New { event, sequence } => {
            Created::New(Box::new(Arc::unwrap_or_clone(event).stored(sequence, now)))
        }
        Admitted::Duplicate {
            id,
            spirit_id,
            sequence,
            different,
        } => Created::Duplicate {
            id,
            spirit_id,
            sequence,
            different,
        },
    }
}
