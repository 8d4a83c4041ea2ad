//! Reads single events by id. Concurrent reads share a statement.
//!
//! Looking up an id costs PostgreSQL less than receiving and answering a statement. Reads that arrive while a
//! statement runs are batched into the next statement; a single read does not wait for a timer.

use std::collections::HashMap;
use std::sync::Arc;

use const_format::formatcp;
use tokio::sync::{Mutex, mpsc, oneshot};
use tracing::{Instrument as _, Span};
use uuid::Uuid;

use super::Reader;
use crate::domain::access::SpiritScope;
use crate::domain::event::Event;
use crate::domain::ids::{EventId, SpiritId};
use crate::panics::{caught, keep_running};
use crate::store::pg::error::{StoreError, unanswered};
use crate::store::pg::pool::ConnectionPool;
use crate::store::pg::rows::{BASIC_COLUMNS, CONTENT_BYTES, CutEventRow, EventRow, FULL_COLUMNS, NO_COLUMNS};
use crate::store::pg::spans;

/// Maximum number of events that one statement reads: 32 MiB of content at the default limit.
const BATCH_MAX: usize = 32;
/// Number of tasks, each of which runs one statement at a time.
const READERS: usize = 2;
/// Capacity of the queue of reads; further reads wait until it has room.
const WAITING_MAX: usize = 1_024;

type Answer = Result<Option<Event>, StoreError>;

/// A read of one event, and the channel of its result.
#[derive(Debug)]
struct Get {
    id: EventId,
    /// The spirits that the event may belong to.
    scope: SpiritScope,
    /// Span of the call.
    span: Span,
    reply: oneshot::Sender<Answer>,
}

/// Batches reads of single events. Cheap to clone; its tasks end with the last clone.
#[derive(Clone)]
pub(in crate::store) struct GetBatcher(mpsc::Sender<Get>);

impl GetBatcher {
    /// Starts the tasks that read through this pool.
    pub(in crate::store) fn start(connections: &ConnectionPool) -> Self {
        let (gets, waiting) = mpsc::channel(WAITING_MAX);
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..READERS {
            let (waiting, connections) = (Arc::clone(&waiting), connections.clone());
            tokio::spawn(keep_running("get batcher", async move || {
                run_batches(&waiting, &connections).await;
            }));
        }
        Self(gets)
    }

    /// Reads an event in the next batch. The event may belong to a spirit outside the scope.
    async fn get(&self, id: EventId, scope: SpiritScope) -> Answer {
        let (reply, answer) = oneshot::channel();
        self.0
            .send(Get {
                id,
                scope,
                span: spans::current(),
                reply,
            })
            .await
            .map_err(|_| StoreError::Closing)?;
        answer.await.map_err(unanswered)?
    }
}

impl Reader {
    /// Returns one event in the FULL view if it belongs to a spirit of the scope. An event that the standby
    /// does not have is read from the primary.
    pub async fn get_event(
        &mut self,
        id: EventId,
        scope: &SpiritScope,
        include_deleted: bool,
    ) -> Result<Option<Event>, StoreError> {
        // A shared statement may return an event that only another caller of it may see.
        let is_visible =
            |event: &Event| scope.holds(event.spirit_id) && (include_deleted || event.deleted_at.is_none());
        if let Some(standby) = self.standby() {
            let found = standby.server.answer(standby.gets.get(id, scope.clone())).await;
            if let Some(found) = self.accept(&standby.server, found) {
                let event = found?.filter(is_visible);
                if event.is_some() || !self.leave_standby() {
                    return Ok(event);
                }
            }
        }
        Ok(self.gets.get(id, scope.clone()).await?.filter(is_visible))
    }

    /// Like [`get_event`](Self::get_event), with at most `bytes_max` bytes of content, by a statement of its own.
    pub async fn get_cut_event(
        &mut self,
        id: EventId,
        scope: &SpiritScope,
        include_deleted: bool,
        bytes_max: i32,
    ) -> Result<Option<Event>, StoreError> {
        let spirit_ids = scope.spirit_ids();
        let spirit_ids: Option<Vec<Uuid>> = spirit_ids.map(|ids| ids.iter().map(|id| id.0).collect());
        let statement = || {
            sqlx::query_as::<_, CutEventRow>(GET_CUT)
                .bind(id.0)
                .bind(named_spirit(scope))
                .bind(spirit_ids.as_ref())
                .bind(include_deleted)
                .bind(bytes_max)
        };
        let mut row = self.optional(statement()).await?;
        if row.is_none() && self.leave_standby() {
            row = self.optional(statement()).await?;
        }
        Ok(row.map(|row| row.cut_to(bytes_max)))
    }

    /// Returns these events of these spirits in the BASIC view, in no order, soft-deleted events included.
    pub async fn get_events_basic(
        &mut self,
        ids: &[EventId],
        spirit_ids: &[SpiritId],
    ) -> Result<Vec<Event>, StoreError> {
        let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
        let spirit_ids: Vec<Uuid> = spirit_ids.iter().map(|id| id.0).collect();
        let statement = sqlx::query_as::<_, EventRow>(GET_BASIC)
            .bind(ids)
            .bind(spirit_ids);
        let rows = self.all(statement).await?;
        Ok(rows.into_iter().map(Event::from).collect())
    }
}

/// Takes and answers batches until the queue is closed.
async fn run_batches(waiting: &Mutex<mpsc::Receiver<Get>>, connections: &ConnectionPool) {
    loop {
        let mut gets = Vec::with_capacity(BATCH_MAX);
        if waiting.lock().await.recv_many(&mut gets, BATCH_MAX).await == 0 {
            return;
        }
        gets.retain(|get| !get.reply.is_closed());
        if gets.is_empty() {
            continue;
        }
        if let Err(error) = answer_all(gets, connections).await {
            // The database is not available, so queued reads fail too. If another task holds the lock, it
            // takes them.
            let Ok(mut waiting) = waiting.try_lock() else {
                continue;
            };
            while let Ok(get) = waiting.try_recv() {
                answer(get, Err(error.clone()));
            }
        }
    }
}

/// Reads and answers a batch. Fails if the database is not available.
async fn answer_all(mut gets: Vec<Get>, connections: &ConnectionPool) -> Result<(), StoreError> {
    let ids: Vec<Uuid> = gets.iter().map(|get| get.id.0).collect();
    // If every read names its spirit, a sharded database reads those shards only.
    let named: Option<Vec<Uuid>> = gets.iter().map(|get| named_spirit(&get.scope)).collect();
    let query = sqlx::query_as::<_, EventRow>(GET)
        .bind(ids)
        .bind(named)
        .bind(union_of_scopes(&gets));
    let span = spans::shared("get_events", gets.iter().map(|get| &get.span));
    let answered = tokio::select! {
        answered = caught(connections.all(query).instrument(span)) => answered,
        () = all_gone(&mut gets) => return Ok(()),
    };
    let events: HashMap<EventId, Event> = match answered.unwrap_or_else(|panicked| Err(panicked.into())) {
        Ok(rows) => rows
            .into_iter()
            .map(Event::from)
            .map(|event| (event.id, event))
            .collect(),
        // A row that cannot be decoded must not fail the reads of other rows.
        Err(error) if error.is_of_statement() && gets.len() > 1 => {
            return answer_apart(gets, connections).await;
        }
        Err(error) => {
            for get in gets {
                answer(get, Err(error.clone()));
            }
            return match error {
                StoreError::Unavailable(_) => Err(error),
                _ => Ok(()),
            };
        }
    };
    answer_with(gets, events);
    Ok(())
}

/// Answers each read with its event. An event is cloned only if several reads of the batch name it.
fn answer_with(gets: Vec<Get>, mut events: HashMap<EventId, Event>) {
    let mut remaining: HashMap<EventId, usize> = HashMap::new();
    for get in &gets {
        *remaining.entry(get.id).or_default() += 1;
    }
    for get in gets {
        let count = remaining.entry(get.id).or_default();
        *count -= 1;
        let event = if *count == 0 {
            events.remove(&get.id)
        } else {
            events.get(&get.id).cloned()
        };
        answer(get, Ok(event));
    }
}

/// Reads each event by a statement of its own. Once the database is not available, the remaining reads fail at
/// once.
async fn answer_apart(gets: Vec<Get>, connections: &ConnectionPool) -> Result<(), StoreError> {
    let mut answered = Ok(());
    for get in gets {
        match &answered {
            Ok(()) => answered = Box::pin(answer_all(vec![get], connections)).await,
            Err(unavailable) => answer(get, Err(StoreError::clone(unavailable))),
        }
    }
    answered
}

/// Returns the spirit that a request names; `None` if it names none.
pub(super) fn named_spirit(scope: &SpiritScope) -> Option<Uuid> {
    match scope {
        SpiritScope::One(owner) => Some(owner.0),
        SpiritScope::All | SpiritScope::Listed(_) => None,
    }
}

/// Returns the spirits that any of the scopes contains; `None` if a scope contains every spirit.
fn union_of_scopes(gets: &[Get]) -> Option<Vec<Uuid>> {
    let mut all = Vec::with_capacity(gets.len());
    for get in gets {
        all.extend(get.scope.spirit_ids()?.iter().map(|id| id.0));
    }
    all.sort_unstable();
    all.dedup();
    Some(all)
}

/// Resolves when every caller of the batch has gone away.
async fn all_gone(gets: &mut [Get]) {
    for get in gets {
        get.reply.closed().await;
    }
}

fn answer(get: Get, answer: Answer) {
    if get.reply.send(answer).is_err() {
        tracing::trace!("the caller of a read has gone away");
    }
}

/// With its values, the condition on `$2` selects the partitions of these spirits; in a generic plan it is a filter. As an
/// index condition, the spirits of the scopes, `$3`, would be tried with every id, so `coalesce` turns the condition into
/// a filter.
pub(in crate::store) const GET: &str = formatcp!(
    "select {BASIC_COLUMNS}, {FULL_COLUMNS}
     from events
     where id = any($1)
     and ($2::uuid[] is null or spirit_id = any($2))
     and coalesce(spirit_id = any($3), $3::uuid[] is null)"
);

/// Like [`GET`], for one event. PostgreSQL reads no more of the content than its first `$5` characters can take.
pub(in crate::store) const GET_CUT: &str = formatcp!(
    "select {BASIC_COLUMNS}, left(content, $5) as content, meta::text as meta, {CONTENT_BYTES}
     from events
     where id = $1
     and ($2::uuid is null or spirit_id = $2)
     and coalesce((spirit_id = any($3) or $3::uuid[] is null) and ($4 or not is_deleted), false)"
);

/// As in [`GET`], the condition on `$2` selects partitions, and is a filter in a generic plan.
pub(in crate::store) const GET_BASIC: &str = formatcp!(
    "select {BASIC_COLUMNS}, {NO_COLUMNS}
     from events
     where id = any($1)
     and ($2::uuid[] is null or spirit_id = any($2))"
);
