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
mod dispatcher;
mod division;
mod edits;
pub(super) mod event_updates;
pub(super) mod fast_path;
pub(super) mod flush;
mod group_commit;
mod job;
mod literals;
mod locked_spirits;
mod outcome;
mod queue;
pub(super) mod session_activity;
pub(super) mod session_last_sequences;
mod sessions;
pub(super) mod sharded;
mod spirits;
mod writer;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::oneshot;

use dispatcher::Dispatcher;
use division::Division;
use event_updates::EventUpdates;
use job::Answer;
use queue::QueueBudget;

use super::live::Announcer;
use super::pg::error::{StoreError, unanswered};
use super::pg::metrics::{QueueUsage, StoreMetrics};
use super::pg::pool::ConnectionPool;
use super::pg::session::Connector;
use super::pg::sharding::Sharding;
use super::read::ReadRouter;
use crate::domain::event::{BatchMode, Created, NewEvent};
use crate::domain::shard::ShardMap;

pub(super) use edits::UPDATE_SPIRIT;
pub(super) use sessions::UPDATE_SESSION;
pub(super) use spirits::INSERT_SPIRIT;

/// Settings of the write path.
#[derive(Clone, Copy, Debug)]
pub struct IngestSettings {
    /// Number of writers, unless the database is distributed. Each has a task and a connection of its own and stores the
    /// events of a part of the spirits.
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
    dispatcher: Arc<Dispatcher>,
    /// Half of the queue's capacity, for unary calls, which are refused when it is used up. Calls and streams have
    /// a budget each, so that neither can starve the other.
    calls: QueueBudget,
    /// The other half, for ingest streams, which wait when it is used up.
    streams: QueueBudget,
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
    /// Starts the writers, or on a distributed database prepares to start them in [`open_shards`](Self::open_shards).
    /// They run until [`close`](Self::close) or until the last clone is dropped.
    pub(super) fn start(
        connector: Connector,
        settings: IngestSettings,
        sharding: Sharding,
        pool: ConnectionPool,
        reads: ReadRouter,
        announcer: Announcer,
        metrics: StoreMetrics,
    ) -> Self {
        let dispatcher = Dispatcher::new(connector, settings, announcer.clone(), metrics.clone());
        if sharding == Sharding::None {
            dispatcher.start(Division::Hashed(settings.writers));
        }
        let dispatcher = Arc::new(dispatcher);
        let half = || QueueBudget::new(settings.queue_items_max / 2, settings.queue_bytes_max / 2);
        Self {
            updates: EventUpdates::new(
                pool.clone(),
                announcer.clone(),
                metrics.clone(),
                Arc::clone(&dispatcher),
            ),
            dispatcher,
            calls: half(),
            streams: half(),
            pool,
            reads,
            announcer,
            metrics,
        }
    }

    /// Starts a writer for each shard of a distributed database, unless they run already.
    pub(super) fn open_shards(&self, shards: ShardMap) {
        self.dispatcher.start(Division::Shards(shards));
    }

    /// Stores one event and returns its result after the commit.
    pub async fn create(&self, event: NewEvent) -> Result<Created, StoreError> {
        let events = vec![event];
        let permit = self.calls.try_acquire(&events);
        let permit = permit.ok_or_else(|| self.overloaded())?;
        Queued(self.dispatcher.send(events, BatchMode::Partial, permit)).await
    }

    /// Stores events in order and returns a result for each event after the commit.
    pub async fn create_batch(
        &self,
        events: Vec<NewEvent>,
        mode: BatchMode,
    ) -> Result<Vec<Result<Created, StoreError>>, StoreError> {
        let permit = self.calls.try_acquire(&events);
        let permit = permit.ok_or_else(|| self.overloaded())?;
        let answer = self.dispatcher.send(events, mode, permit);
        answer.await.map_err(unanswered)?.into_results()
    }

    /// Queues one event of an ingest stream; waits until the queue has capacity. Events of one spirit are stored in
    /// the order in which a caller queues them.
    pub async fn enqueue(&self, event: NewEvent) -> Result<Queued, StoreError> {
        let events = vec![event];
        let permit = self.streams.acquire(&events).await?;
        Ok(Queued(self.dispatcher.send(events, BatchMode::Partial, permit)))
    }

    /// Refuses further creates, commits the queued ones and ends the writers.
    pub(super) async fn close(&self) {
        self.dispatcher.close().await;
    }

    /// Returns the usage of the queue by unary calls and by ingest streams, each with its metric label.
    pub(super) fn queue_usage(&self) -> [(&'static str, QueueUsage); 2] {
        [("calls", self.calls.usage()), ("streams", self.streams.usage())]
    }

    /// Counts a refused call and returns its error.
    fn overloaded(&self) -> StoreError {
        self.dispatcher.count_refused();
        self.metrics.queue.overloads.inc();
        StoreError::Overloaded
    }
}
