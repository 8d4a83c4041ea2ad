//! Purges: removal of events for good, by request or by the retention of spirits.
//!
//! A purge runs in a task and consists of [steps](step): short transactions with pauses in between, so that creates of
//! the spirit continue. Each step reads a page of the purge's [walk], locks the spirit, and removes the events that are
//! still selected. [`retention`] runs the same steps for the spirits that have a retention.

mod retention;
pub(super) mod sharded;
pub(super) mod statements;
mod step;
mod task;
mod walk;
pub(super) mod walk_statements;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{oneshot, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use statements::START;
use step::{Purged, Request};
use task::Task;

use super::live::{Announcer, Topic};
use super::pg::error::{StoreError, unanswered};
use super::pg::metrics::StoreMetrics;
use super::pg::pool::ConnectionPool;
use super::pg::session::PgSession;
use super::pg::transaction::{begin, commit, rollback};
use super::read::ReadRouter;
use crate::domain::change::ChangeKind;
use crate::domain::ids::SpiritId;
use crate::domain::purge::{EventPurge, PurgeSelection, Selected, SpiritPurge};
use crate::domain::refusal::Refusal;
use crate::panics::caught;

/// A purge pauses after a step for this many times the duration of the step, so that creates and reads find the
/// database idle for most of the time.
const PAUSE_FACTOR: u32 = 4;
/// The longest pause after a step.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Runs purges. Cheap to clone.
#[derive(Clone)]
pub struct Purger {
    pool: ConnectionPool,
    reads: ReadRouter,
    announcer: Announcer,
    metrics: StoreMetrics,
    closing: CancellationToken,
    tasks: TaskTracker,
}

/// A purge under way. Dropping it ends the purge after the current step.
#[derive(Debug)]
pub struct RunningPurge {
    /// `None` for a dry run.
    pub id: Option<Uuid>,
    /// The number of events that were purged so far.
    count: watch::Receiver<i64>,
    result: oneshot::Receiver<Result<(), StoreError>>,
}

/// An item of a purge under way: the number of events that were purged so far, and whether the purge is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PurgeProgress {
    pub count: i64,
    pub is_done: bool,
}

impl RunningPurge {
    /// Waits for the next step that has ended. The numbers of steps that end in the meantime are skipped.
    ///
    /// # Errors
    /// The error that ended the purge.
    pub async fn next(&mut self) -> Result<PurgeProgress, StoreError> {
        let is_done = tokio::select! {
            biased;
            result = &mut self.result => {
                result.map_err(unanswered)??;
                true
            }
            Ok(()) = self.count.changed() => false,
        };
        let count = *self.count.borrow_and_update();
        Ok(PurgeProgress { count, is_done })
    }
}

impl Purger {
    pub(super) fn new(
        pool: ConnectionPool,
        reads: ReadRouter,
        announcer: Announcer,
        metrics: StoreMetrics,
    ) -> Self {
        Self {
            pool,
            reads,
            announcer,
            metrics,
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// Starts to purge events of a spirit.
    ///
    /// # Errors
    /// `Refusal::SpiritNotFound` for an unknown spirit.
    pub async fn purge_events(&self, purge: EventPurge) -> Result<RunningPurge, StoreError> {
        let EventPurge {
            spirit_id,
            selected,
            reason,
            requested_by,
            is_dry_run,
        } = purge;
        let selection = selected.kind();
        let (purge_id, last_sequence) = if is_dry_run {
            let last_sequence = self.reads.primary().last_sequence(spirit_id).await?;
            (None, last_sequence)
        } else {
            let id = Uuid::now_v7();
            let started = self.start(spirit_id, id, selection, reason, requested_by.as_deref());
            (Some(id), started.await?)
        };
        let bound = last_sequence.ok_or(Refusal::SpiritNotFound(spirit_id))?;
        let owner = match &selected {
            Selected::SessionOwner(owner) => Some(owner.clone()),
            _ => None,
        };
        let request = Request {
            purge_id,
            changed_by: requested_by,
            owner,
            of_deleted_spirit: false,
            is_dry_run,
        };
        Ok(self.spawn(spirit_id, selection, request, move |task| {
            Box::pin(async move { task.purge_selected(selected, bound).await })
        }))
    }

    /// Starts to purge a soft-deleted spirit.
    ///
    /// # Errors
    /// `Refusal::SpiritNotFound` for an unknown spirit; `Refusal::SpiritNotDeleted` for one that is not soft-deleted.
    pub async fn purge_spirit(&self, purge: SpiritPurge) -> Result<RunningPurge, StoreError> {
        let SpiritPurge {
            spirit_id,
            reason,
            requested_by,
        } = purge;
        let (id, selection) = (Uuid::now_v7(), PurgeSelection::Spirit);
        let started = self.start(spirit_id, id, selection, reason, requested_by.as_deref());
        if started.await?.is_none() {
            let exists = self.reads.primary().last_sequence(spirit_id).await?.is_some();
            return Err(StoreError::from(if exists {
                Refusal::SpiritNotDeleted(spirit_id)
            } else {
                Refusal::SpiritNotFound(spirit_id)
            }));
        }
        let request = Request {
            purge_id: Some(id),
            changed_by: requested_by,
            owner: None,
            of_deleted_spirit: true,
            is_dry_run: false,
        };
        Ok(self.spawn(spirit_id, selection, request, |task| {
            Box::pin(async move { task.purge_spirit().await })
        }))
    }

    /// Ends the purges after their current steps.
    pub(super) async fn close(&self) {
        self.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Stores the start of a purge. Returns the spirit's last sequence; `None` if the spirit cannot be purged.
    async fn start(
        &self,
        spirit_id: SpiritId,
        id: Uuid,
        selection: PurgeSelection,
        reason: Option<String>,
        requested_by: Option<&str>,
    ) -> Result<Option<i64>, StoreError> {
        let is_sharded = self.pool.is_sharded();
        let start = if is_sharded { sharded::START } else { START };
        let statement = sqlx::query_as::<_, (i64,)>(start)
            .bind(spirit_id.0)
            .bind(id)
            .bind(selection.name())
            .bind(reason)
            .bind(requested_by);
        let row = self.pool.optional(statement).await?;
        if is_sharded && row.is_some() {
            return self.reads.primary().last_sequence(spirit_id).await;
        }
        Ok(row.map(|(last_sequence,)| last_sequence))
    }

    /// Runs a purge in a task.
    fn spawn<Run>(
        &self,
        spirit_id: SpiritId,
        selection: PurgeSelection,
        request: Request,
        run: Run,
    ) -> RunningPurge
    where
        Run: FnOnce(Task) -> BoxFuture<'static, Result<(), StoreError>> + Send + 'static,
    {
        let id = request.purge_id;
        let (count, counted) = watch::channel(0);
        let (sender, result) = oneshot::channel();
        let task = Task {
            purger: self.clone(),
            spirit_id,
            selection,
            request: Arc::new(request),
            count,
        };
        self.tasks.spawn(async move {
            let result = caught(run(task))
                .await
                .unwrap_or_else(|panicked| Err(panicked.into()));
            if sender.send(result).is_err() {
                tracing::debug!("a purge ended whose caller has gone away");
            }
        });
        RunningPurge {
            id,
            count: counted,
            result,
        }
    }

    /// Runs a transaction that may remove events or changes. Events are counted and announced after the commit.
    async fn transaction<T, Run>(&self, spirit_id: SpiritId, run: Run) -> Result<T, StoreError>
    where
        T: Send + 'static,
        Run: for<'s> FnOnce(&'s mut PgSession) -> BoxFuture<'s, Result<T, StoreError>> + Send + 'static,
    {
        let done = self.pool.transaction(spirit_id, move |session| {
            Box::pin(async move {
                begin(session).await?;
                match run(session).await {
                    Err(StoreError::Refused(refusal)) => {
                        rollback(session).await?;
                        Ok(Err(refusal))
                    }
                    Err(error) => Err(error),
                    Ok(done) => {
                        commit(session).await?;
                        Ok(Ok(done))
                    }
                }
            })
        });
        Ok(done.await??)
    }

    /// Counts the events of a step after its commit, and wakes the streams that follow the changes of the spirit.
    fn record(&self, spirit_id: SpiritId, selection: PurgeSelection, purged: Purged, step: Duration) {
        self.metrics.purges.steps.observe(step.as_secs_f64());
        if purged.count > 0 {
            self.metrics.purges.count(selection, purged.count.unsigned_abs());
            self.metrics.count_changes(ChangeKind::Purged, 1);
            self.announcer.announce(&[spirit_id], Topic::Changes);
        }
    }

    /// Pauses for this long, or until the server ends.
    async fn pause(&self, pause: Duration) {
        tokio::select! {
            () = sleep(pause) => {}
            () = self.closing.cancelled() => {}
        }
    }
}

/// Returns the pause after a step that took this long.
fn pause_after(step: Duration) -> Duration {
    step.saturating_mul(PAUSE_FACTOR).min(PAUSE_MAX)
}
