//! The write path of new events: a bounded queue and a writer that commits what has gathered.
//!
//! Callers put [`Job`]s into the queue and wait; they can go away at any time. The
//! [`writer`] takes what has queued while the commit before ran, so a lone caller waits for no
//! timer, and [`flush`] stores it in one transaction. Both run in tasks that no caller cancels.

mod flush;
mod held;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(super) use flush::statements;

use super::{Store, StoreError};
use crate::domain::Time;
use crate::domain::admission::{Admitted, Verdict};
use crate::domain::event::{BatchMode, Created, NewEvent};
use crate::domain::refusal::Refusal;

/// Bounds of the write path.
#[derive(Clone, Copy, Debug)]
pub struct IngestSettings {
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

/// One request on its way into the database; its items share one fate where `mode` is atomic.
#[derive(Debug)]
struct Job {
    items: Vec<Arc<NewEvent>>,
    mode: BatchMode,
    reply: oneshot::Sender<Result<Decided, StoreError>>,
    /// Its share of the queue, given back when it is answered.
    _room: [OwnedSemaphorePermit; 2],
}

/// What was decided about a job, committed.
#[derive(Clone, Debug)]
struct Decided {
    verdict: Verdict,
    /// `created_at` of what was stored.
    now: Time,
}

/// The way into the write path. Cheap to clone.
#[derive(Clone)]
pub(super) struct Ingest {
    jobs: mpsc::UnboundedSender<Job>,
    items: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    settings: IngestSettings,
    closing: CancellationToken,
    tasks: TaskTracker,
}

impl Ingest {
    /// Starts the writer, which lives until [`close`](Self::close) or until every clone is dropped.
    pub(super) fn start(connect: PgConnectOptions, settings: IngestSettings) -> Self {
        let (jobs, queue) = mpsc::unbounded_channel();
        let tasks = TaskTracker::new();
        let closing = CancellationToken::new();
        let writer = writer::Writer::new(connect, settings, tasks.clone());
        tasks.spawn(writer.run(queue, closing.clone()));
        tasks.close();
        Self {
            jobs,
            items: Arc::new(Semaphore::new(settings.queue_items_max)),
            bytes: Arc::new(Semaphore::new(settings.queue_bytes_max / BYTES_PER_PERMIT)),
            settings,
            closing,
            tasks,
        }
    }

    /// Takes no further jobs, finishes the queued ones and ends the writer.
    pub(super) async fn close(&self) {
        self.closing.cancel();
        self.tasks.wait().await;
    }

    async fn submit(&self, items: Vec<NewEvent>, mode: BatchMode) -> Result<Decided, StoreError> {
        let room = self.room(&items)?;
        let (reply, answer) = oneshot::channel();
        let job = Job {
            items: items.into_iter().map(Arc::new).collect(),
            mode,
            reply,
            _room: room,
        };
        self.jobs.send(job).map_err(|_| StoreError::Closing)?;
        answer.await.map_err(|_| StoreError::Closing)?
    }

    /// A share of the queue. A request larger than the whole queue gets all of it.
    fn room(&self, items: &[NewEvent]) -> Result<[OwnedSemaphorePermit; 2], StoreError> {
        let bytes: usize = items.iter().map(NewEvent::size).sum();
        let take = |semaphore: &Arc<Semaphore>, wanted: usize, max: usize| {
            let wanted = u32::try_from(wanted.clamp(1, max.max(1))).unwrap_or(u32::MAX);
            Arc::clone(semaphore)
                .try_acquire_many_owned(wanted)
                .map_err(|_| StoreError::Overloaded)
        };
        let IngestSettings {
            queue_items_max,
            queue_bytes_max,
            ..
        } = self.settings;
        Ok([
            take(&self.items, items.len(), queue_items_max)?,
            take(
                &self.bytes,
                bytes / BYTES_PER_PERMIT,
                queue_bytes_max / BYTES_PER_PERMIT,
            )?,
        ])
    }
}

impl Store {
    /// Stores one event and returns after the commit.
    pub async fn create_event(&self, event: NewEvent) -> Result<Created, StoreError> {
        let Decided { verdict, now } = self.ingest.submit(vec![event], BatchMode::Partial).await?;
        let result = verdict.ok().and_then(|results| results.into_iter().next());
        let admitted = result.ok_or_else(|| StoreError::Bug("a create without a result".to_owned()))??;
        Ok(created(admitted, now))
    }

    /// Stores events one after another and returns after the commit, with a result for each.
    pub async fn create_events(
        &self,
        events: Vec<NewEvent>,
        mode: BatchMode,
    ) -> Result<Vec<Result<Created, Refusal>>, StoreError> {
        let Decided { verdict, now } = self.ingest.submit(events, mode).await?;
        let results = verdict.map_err(StoreError::BatchRefused)?;
        Ok(results
            .into_iter()
            .map(|result| result.map(|admitted| created(admitted, now)))
            .collect())
    }
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
