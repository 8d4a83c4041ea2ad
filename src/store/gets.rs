//! Single events by id, gathered: readers that ask at the same time share a statement.
//!
//! A look-up by id costs PostgreSQL less than receiving and answering a statement does. What has
//! queued while the statement before ran goes into the next one; a lone reader waits for no timer.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use sqlx::AssertSqlSafe;
use tokio::sync::{Mutex, mpsc, oneshot};
use uuid::Uuid;

use super::connections::Connections;
use super::rows::{BASIC_COLUMNS, EventRow, FULL_COLUMNS};
use super::{Store, StoreError};
use crate::domain::event::Event;
use crate::domain::ids::{EventId, SpiritId};

/// Events that one statement reads at the most: 32 MiB of content at the default limit.
const GATHERED_MAX: usize = 32;
/// Statements that run at the same time.
const READERS: usize = 2;
/// Readers that wait for a statement; more wait for a place here.
const WAITING_MAX: usize = 1_024;

type Answer = Result<Option<Event>, StoreError>;

#[derive(Debug)]
struct Get {
    id: EventId,
    /// The owner that the reader named.
    spirit_id: Option<SpiritId>,
    reply: oneshot::Sender<Answer>,
}

/// The way to the readers. Cheap to clone; they end with the last clone.
#[derive(Clone)]
pub(super) struct Gets(mpsc::Sender<Get>);

impl Gets {
    pub(super) fn start(connections: &Connections) -> Self {
        let (gets, waiting) = mpsc::channel(WAITING_MAX);
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..READERS {
            tokio::spawn(read(Arc::clone(&waiting), connections.clone()));
        }
        Self(gets)
    }

    async fn get(&self, id: EventId, spirit_id: Option<SpiritId>) -> Answer {
        let (reply, answer) = oneshot::channel();
        self.0
            .send(Get { id, spirit_id, reply })
            .await
            .map_err(|_| StoreError::Closing)?;
        answer.await.map_err(|_| StoreError::Closing)?
    }
}

impl Store {
    /// One event; of this spirit, when one is named.
    pub async fn get_event(
        &self,
        id: EventId,
        spirit_id: Option<SpiritId>,
        include_deleted: bool,
    ) -> Result<Option<Event>, StoreError> {
        let event = self.gets.get(id, spirit_id).await?;
        Ok(event.filter(|event| {
            spirit_id.is_none_or(|spirit_id| spirit_id == event.spirit_id)
                && (include_deleted || event.deleted_at.is_none())
        }))
    }
}

async fn read(waiting: Arc<Mutex<mpsc::Receiver<Get>>>, connections: Connections) {
    loop {
        let mut gets = Vec::with_capacity(GATHERED_MAX);
        if waiting.lock().await.recv_many(&mut gets, GATHERED_MAX).await == 0 {
            return;
        }
        gets.retain(|get| !get.reply.is_closed());
        if gets.is_empty() {
            continue;
        }
        if let Err(error) = answer_all(gets, &connections).await {
            // Those that have queued meanwhile have waited as well. Where the other reader has the lock, it
            // takes what there is.
            let Ok(mut waiting) = waiting.try_lock() else {
                continue;
            };
            while let Ok(get) = waiting.try_recv() {
                answer(get, Err(error.clone()));
            }
        }
    }
}

/// Fails when the database is away.
async fn answer_all(mut gets: Vec<Get>, connections: &Connections) -> Result<(), StoreError> {
    let ids: Vec<Uuid> = gets.iter().map(|get| get.id.0).collect();
    // Where every reader named the owner, a sharded database need not look everywhere.
    let spirit_ids: Option<Vec<Uuid>> = gets.iter().map(|get| Some(get.spirit_id?.0)).collect();
    let query = sqlx::query_as::<_, EventRow>(AssertSqlSafe(Arc::clone(&GET)))
        .bind(ids)
        .bind(spirit_ids);
    let answered = tokio::select! {
        answered = connections.all(query) => answered,
        () = all_gone(&mut gets) => return Ok(()),
    };
    let mut events: HashMap<EventId, Event> = match answered {
        Ok(rows) => rows
            .into_iter()
            .map(Event::from)
            .map(|event| (event.id, event))
            .collect(),
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
    let mut wanted: HashMap<EventId, usize> = HashMap::new();
    for get in &gets {
        *wanted.entry(get.id).or_default() += 1;
    }
    for get in gets {
        let left = wanted.entry(get.id).or_default();
        *left -= 1;
        let event = if *left == 0 {
            events.remove(&get.id)
        } else {
            events.get(&get.id).cloned()
        };
        answer(get, Ok(event));
    }
    Ok(())
}

/// Waits until nobody waits for an answer any more.
async fn all_gone(gets: &mut [Get]) {
    for get in gets {
        get.reply.closed().await;
    }
}

fn answer(get: Get, answer: Answer) {
    if get.reply.send(answer).is_err() {
        tracing::trace!("a reader has gone");
    }
}

static GET: LazyLock<Arc<str>> = LazyLock::new(|| {
    format!(
        "select {BASIC_COLUMNS}, {FULL_COLUMNS}
         from events
         where id = any($1)
         and ($2::uuid[] is null or spirit_id = any($2))"
    )
    .into()
});

/// See [`super::statements`].
pub(super) fn statements() -> Vec<(&'static str, Arc<str>)> {
    vec![("get_event", Arc::clone(&GET))]
}
