//! Stores moved spirits and events.

use std::collections::{BTreeMap, HashSet};

use sqlx::FromRow;
use uuid::Uuid;

use super::statements::{ADVANCE_SPIRIT, HAS_PURGES, STORE_EVENTS, STORE_SPIRIT, STORED_EVENTS};
use crate::domain::Time;
use crate::domain::event::Event;
use crate::domain::ids::{EventId, SpiritId};
use crate::domain::meta::Meta;
use crate::domain::refusal::Refusal;
use crate::domain::session::minute_of;
use crate::domain::spirit::fold_name;
use crate::store::live::{Announcer, Topic};
use crate::store::pg::error::StoreError;
use crate::store::pg::pool::ConnectionPool;
use crate::store::pg::session::{PgSession, Statement};
use crate::store::pg::transaction::{begin, commit, fetch_all, optional, rollback};
use crate::store::purge::statements::LOCK;
use crate::store::write::dedupe_keys::dedupe_keys;
use crate::store::write::session_activity::activate_sessions_statement;

/// Stores what is moved. Cheap to clone.
#[derive(Clone)]
pub struct EventMover {
    pool: ConnectionPool,
    announcer: Announcer,
}

/// A spirit to be stored with its id and times.
#[derive(Clone, Debug)]
pub struct MovedSpirit {
    pub id: SpiritId,
    pub name: String,
    pub description: Option<String>,
    pub meta: Meta,
    pub deleted_at: Option<Time>,
    pub created_at: Time,
    pub updated_at: Time,
}

/// The state of a spirit after it was to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpiritState {
    Stored,
    /// It was there.
    Existing,
    /// It, or some of its events, were purged; its events must not return.
    Purged,
}

/// The events that a step has stored.
#[derive(Clone, Debug, Default)]
pub struct Moved {
    pub stored: HashSet<EventId>,
    /// Number of stored events that lost their dedupe key, because an earlier event of the spirit has it.
    pub dropped_keys: u64,
}

impl EventMover {
    pub(in crate::store) fn new(pool: ConnectionPool, announcer: Announcer) -> Self {
        Self { pool, announcer }
    }

    /// Stores a spirit unless it exists.
    pub async fn store_spirit(&self, spirit: MovedSpirit) -> Result<SpiritState, StoreError> {
        let id = spirit.id.0;
        let statement = sqlx::query_as::<_, (Uuid,)>(STORE_SPIRIT)
            .bind(id)
            .bind(spirit.name.clone())
            .bind(fold_name(&spirit.name))
            .bind(spirit.description)
            .bind(spirit.meta.as_json())
            .bind(spirit.deleted_at)
            .bind(spirit.created_at)
            .bind(spirit.updated_at);
        let stored = self.pool.optional(statement).await?.is_some();
        let purged = sqlx::query_as::<_, (bool,)>(HAS_PURGES).bind(id);
        let (is_purged,) = self.pool.one(purged).await?;
        Ok(match (is_purged, stored) {
            (true, _) => SpiritState::Purged,
            (false, true) => SpiritState::Stored,
            (false, false) => SpiritState::Existing,
        })
    }

    /// Stores those of the events that are not stored yet, in their order and in one transaction, and records their
    /// sessions. All are of this spirit, which exists.
    pub async fn store_events(&self, spirit_id: SpiritId, events: Vec<Event>) -> Result<Moved, StoreError> {
        let store = async move |session: &mut PgSession| {
            begin(session).await?;
            let Some((_, last_sequence)) = lock(session, spirit_id).await? else {
                rollback(session).await?;
                return Ok(Err(Refusal::SpiritNotFound(spirit_id)));
            };
            let stored = stored_events(session, spirit_id, &events).await?;
            let mut new = events;
            new.retain(|event| !stored.contains(&event.id.0));
            if new.is_empty() {
                rollback(session).await?;
                return Ok(Ok(Moved::default()));
            }
            let dropped_keys = drop_taken_keys(session, spirit_id, &mut new).await?;
            for (event, sequence) in new.iter_mut().zip(last_sequence + 1..) {
                event.sequence = sequence;
            }
            insert(session, spirit_id, &new).await?;
            record_sessions(session, spirit_id, &new).await?;
            advance(session, spirit_id, &new).await?;
            commit(session).await?;
            Ok(Ok(Moved {
                stored: new.into_iter().map(|event| event.id).collect(),
                dropped_keys,
            }))
        };
        let moved = self
            .pool
            .transaction(spirit_id, move |session| Box::pin(store(session)))
            .await??;
        if !moved.stored.is_empty() {
            self.announcer.announce(&[spirit_id], Topic::Events);
        }
        Ok(moved)
    }
}

/// Waits for the lock of the spirit.
async fn lock(session: &mut PgSession, spirit_id: SpiritId) -> Result<Option<(bool, i64)>, StoreError> {
    optional(session, sqlx::query_as(LOCK).bind(spirit_id.0)).await
}

/// Runs a statement without rows.
async fn execute(session: &mut PgSession, statement: Statement<'_, ()>) -> Result<(), StoreError> {
    fetch_all(session, statement).await.map(drop)
}

async fn stored_events(
    session: &mut PgSession,
    spirit_id: SpiritId,
    events: &[Event],
) -> Result<HashSet<Uuid>, StoreError> {
    let ids: Vec<Uuid> = events.iter().map(|event| event.id.0).collect();
    let statement = sqlx::query_as::<_, (Uuid,)>(STORED_EVENTS)
        .bind(spirit_id.0)
        .bind(ids);
    let rows = fetch_all(session, statement).await?;
    Ok(rows.into_iter().map(|(id,)| id).collect())
}

#[derive(FromRow)]
struct TakenKeyRow {
    dedupe_key: String,
}

/// Removes dedupe keys that another event of the spirit has. Of the new events, the first one keeps a key. Returns the
/// number of removed keys.
async fn drop_taken_keys(
    session: &mut PgSession,
    spirit_id: SpiritId,
    events: &mut [Event],
) -> Result<u64, StoreError> {
    let keys: Vec<String> = events
        .iter()
        .filter_map(|event| event.dedupe_key.clone())
        .collect();
    if keys.is_empty() {
        return Ok(0);
    }
    let statement = sqlx::query_as::<_, TakenKeyRow>(dedupe_keys(session.is_sharded()))
        .bind(vec![spirit_id.0; keys.len()])
        .bind(keys);
    let rows = fetch_all(session, statement).await?;
    let mut taken: HashSet<String> = rows.into_iter().map(|row| row.dedupe_key).collect();
    let mut dropped = 0;
    for event in events {
        if event
            .dedupe_key
            .as_ref()
            .is_some_and(|key| !taken.insert(key.clone()))
        {
            event.dedupe_key = None;
            dropped += 1;
        }
    }
    Ok(dropped)
}

async fn insert(session: &mut PgSession, spirit_id: SpiritId, events: &[Event]) -> Result<(), StoreError> {
    fn column<'e, T>(events: &'e [Event], field: impl Fn(&'e Event) -> T) -> Vec<T> {
        events.iter().map(field).collect()
    }
    let statement = sqlx::query_as::<_, ()>(STORE_EVENTS)
        .bind(spirit_id.0)
        .bind(column(events, |event| event.id.0))
        .bind(column(events, |event| event.sequence))
        .bind(column(events, |event| event.event_type.as_str()))
        .bind(column(events, |event| event.meta_summary.as_deref()))
        .bind(column(events, |event| {
            event.content.as_deref().unwrap_or_default()
        }))
        .bind(column(events, |event| event.occurred_at))
        .bind(column(events, |event| event.session_id.as_deref()))
        .bind(column(events, |event| {
            event.meta.as_ref().map_or("{}", Meta::as_json)
        }))
        .bind(column(events, |event| event.source_uri.as_deref()))
        .bind(column(events, |event| event.dedupe_key.as_deref()))
        .bind(column(events, |event| event.importance_score))
        .bind(column(events, |event| event.deleted_at))
        .bind(column(events, |event| event.created_at))
        .bind(column(events, |event| event.updated_at));
    execute(session, statement).await
}

/// Records the sessions of the events, each with the minute of its newest live event.
async fn record_sessions(
    session: &mut PgSession,
    spirit_id: SpiritId,
    events: &[Event],
) -> Result<(), StoreError> {
    let mut sessions: BTreeMap<&str, Option<Time>> = BTreeMap::new();
    for event in events {
        if let Some(session_id) = &event.session_id {
            let minute = event.deleted_at.is_none().then(|| minute_of(event.occurred_at));
            let newest = sessions.entry(session_id).or_default();
            *newest = minute.max(*newest);
        }
    }
    if sessions.is_empty() {
        return Ok(());
    }
    let (session_ids, minutes): (Vec<&str>, Vec<Option<Time>>) = sessions.into_iter().unzip();
    let statement = sqlx::query_as::<_, ()>(activate_sessions_statement(session.is_sharded()))
        .bind(vec![spirit_id.0; session_ids.len()])
        .bind(session_ids)
        .bind(minutes);
    execute(session, statement).await
}

async fn advance(session: &mut PgSession, spirit_id: SpiritId, events: &[Event]) -> Result<(), StoreError> {
    let last_sequence = events.last().map(|event| event.sequence);
    let last_deleted_at = events.iter().filter_map(|event| event.deleted_at).max();
    let statement = sqlx::query_as::<_, ()>(ADVANCE_SPIRIT)
        .bind(spirit_id.0)
        .bind(last_sequence)
        .bind(last_deleted_at);
    execute(session, statement).await
}
