//! Updates of events that leave them deleted or live. Each draws a change number under the lock of the spirit, which is
//! held until the commit, so updates of one spirit that arrive meanwhile are committed together. Updates leave most of the
//! time to creates that wait for the same lock.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use sqlx::FromRow;
use sqlx::types::chrono::{DateTime, Utc};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};
use tracing::Instrument as _;
use uuid::Uuid;

use super::dispatcher::Dispatcher;
use super::sharded;
use crate::domain::change::{ChangeKind, ChangedFields};
use crate::domain::edit::EventFields;
use crate::domain::event::Event;
use crate::domain::ids::{EventId, SpiritId};
use crate::domain::meta::Meta;
use crate::panics::keep_running;
use crate::store::live::{Announcer, Topic};
use crate::store::pg::error::{StoreError, unanswered};
use crate::store::pg::metrics::StoreMetrics;
use crate::store::pg::pool::ConnectionPool;
use crate::store::pg::session::{Statement, into_static};
use crate::store::pg::spans;

pub(in crate::store) const UPDATE_EVENTS: &str = include_str!("update_events.sql");

/// Maximum number of updates that one statement carries out: 10 MiB of parameters at the default limits.
const BATCH_MAX: usize = 64;

/// Pause after a batch that made creates of its spirit wait, as a multiple of the duration of the batch. Updates that
/// arrive meanwhile are carried out together, so its creates keep most of their rate however slow commits
/// are.
const PAUSE_FACTOR: u32 = 3;

/// The result of an update; `None` if the revision of the event has changed since it was read.
type Answer = Result<Option<UpdatedRow>, StoreError>;

/// An update that waits for those before it, and the channel of its result.
struct PendingUpdate {
    id: EventId,
    /// The revision that was read.
    revision: i64,
    fields: EventFields,
    changed: ChangedFields,
    changed_by: Option<String>,
    reply: oneshot::Sender<Answer>,
}

/// An updated event.
#[derive(Debug, FromRow)]
pub(super) struct UpdatedRow {
    /// Number of the update in its batch, from 1.
    pub(super) ordinal: i64,
    pub(super) meta: String,
    pub(super) revision: i64,
    pub(super) updated_at: DateTime<Utc>,
}

/// Updates events. The updates of a spirit run one batch after another, on one connection at a time. Cheap to clone.
#[derive(Clone)]
pub(super) struct EventUpdates {
    /// Waiting updates of the spirits that have a running batch.
    queues: Arc<Mutex<HashMap<SpiritId, Vec<PendingUpdate>>>>,
    /// Knows the creates that wait for locked spirits.
    creates: Arc<Dispatcher>,
    pool: ConnectionPool,
    announcer: Announcer,
    metrics: StoreMetrics,
}

impl EventUpdates {
    pub(super) fn new(
        pool: ConnectionPool,
        announcer: Announcer,
        metrics: StoreMetrics,
        creates: Arc<Dispatcher>,
    ) -> Self {
        Self {
            queues: Arc::default(),
            creates,
            pool,
            announcer,
            metrics,
        }
    }

    /// Updates the event, which was read in the FULL view, and returns it as updated. Returns `None` if its revision
    /// has changed since it was read.
    pub(super) async fn update(
        &self,
        read: Event,
        fields: EventFields,
        changed_by: Option<String>,
    ) -> Result<Option<Event>, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.enqueue(
            read.spirit_id,
            PendingUpdate {
                id: read.id,
                revision: read.revision,
                changed: ChangedFields::between(&read, &fields),
                fields: fields.clone(),
                changed_by,
                reply,
            },
        );
        let updated = answer.await.map_err(unanswered)??;
        Ok(updated.map(|row| Event {
            meta_summary: fields.meta_summary,
            importance_score: fields.importance_score,
            meta: Some(Meta::from_json(row.meta)),
            role: fields.role,
            author: fields.author,
            revision: row.revision,
            updated_at: row.updated_at,
            ..read
        }))
    }

    /// Queues the update, and starts the task of its spirit if it is not running.
    fn enqueue(&self, spirit_id: SpiritId, update: PendingUpdate) {
        let is_running = {
            let mut queues = self.queues.lock();
            let is_running = queues.contains_key(&spirit_id);
            queues.entry(spirit_id).or_default().push(update);
            is_running
        };
        if !is_running {
            let updates = self.clone();
            let run = keep_running("event updates", async move || {
                while let Some(batch) = updates.take(spirit_id) {
                    let started = Instant::now();
                    updates.run(spirit_id, batch).await;
                    if updates.creates.is_awaited(spirit_id) {
                        sleep(started.elapsed() * PAUSE_FACTOR).await;
                    }
                }
            });
            tokio::spawn(run.instrument(spans::current()));
        }
    }

    /// Takes the next updates of a spirit whose callers still wait. If there are none, removes the spirit's queue and
    /// returns `None`.
    fn take(&self, spirit_id: SpiritId) -> Option<Vec<PendingUpdate>> {
        let mut queues = self.queues.lock();
        let queue = queues.get_mut(&spirit_id)?;
        queue.retain(|update| !update.reply.is_closed());
        if queue.is_empty() {
            queues.remove(&spirit_id);
            return None;
        }
        Some(queue.drain(..queue.len().min(BATCH_MAX)).collect())
    }

    /// Carries out and answers a batch. If PostgreSQL rejects it, each update is tried alone, so that it fails for its
    /// own data only.
    async fn run(&self, spirit_id: SpiritId, batch: Vec<PendingUpdate>) {
        let updated = if self.pool.is_sharded() {
            let edits = bind(
                sqlx::query_as(sharded::statements::UPDATE_EVENTS),
                spirit_id,
                &batch,
            );
            match into_static(edits) {
                Ok(edits) => sharded::update_events(&self.pool, spirit_id, edits).await,
                Err(error) => Err(error.into()),
            }
        } else {
            self.pool
                .all(bind(sqlx::query_as(UPDATE_EVENTS), spirit_id, &batch))
                .await
        };
        match updated {
            Err(error) if error.is_of_statement() && batch.len() > 1 => {
                for update in batch {
                    Box::pin(self.run(spirit_id, vec![update])).await;
                }
            }
            Ok(rows) => {
                if !rows.is_empty() {
                    self.metrics.count_changes(ChangeKind::Updated, rows.len() as u64);
                    self.announcer.announce(&[spirit_id], Topic::Changes);
                }
                let mut rows: HashMap<i64, UpdatedRow> =
                    rows.into_iter().map(|row| (row.ordinal, row)).collect();
                for (ordinal, update) in (1..).zip(batch) {
                    answer(update, Ok(rows.remove(&ordinal)));
                }
            }
            Err(error) => {
                for update in batch {
                    answer(update, Err(error.clone()));
                }
            }
        }
    }
}

fn answer(update: PendingUpdate, answer: Answer) {
    if update.reply.send(answer).is_err() {
        tracing::trace!("the caller of an edit has gone away");
    }
}

/// Binds the spirit and an array for each column of a batch.
fn bind<'b, Row>(
    statement: Statement<'b, Row>,
    spirit_id: SpiritId,
    batch: &'b [PendingUpdate],
) -> Statement<'b, Row> {
    fn column<'b, T>(batch: &'b [PendingUpdate], value: impl Fn(&'b PendingUpdate) -> T) -> Vec<T> {
        batch.iter().map(value).collect()
    }
    statement
        .bind(spirit_id.0)
        .bind(column(batch, |update| -> Uuid { update.id.0 }))
        .bind(column(batch, |update| update.revision))
        .bind(column(batch, |update| update.fields.meta_summary.as_deref()))
        .bind(column(batch, |update| update.fields.importance_score))
        .bind(column(batch, |update| update.fields.meta.as_json()))
        .bind(column(batch, |update| update.fields.role.as_deref()))
        .bind(column(batch, |update| update.fields.author.as_deref()))
        .bind(column(batch, |update| update.changed.names.join(",")))
        .bind(column(batch, |update| update.changed.previous.as_str()))
        .bind(column(batch, |update| update.changed_by.as_deref()))
}
