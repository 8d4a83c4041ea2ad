//! Changes of events on a distributed database, in transactions of statements that each change one table. They have the
//! effect of the single statements on one PostgreSQL, which Citus would run as several distributed ones.
//!
//! Each function runs in a transaction that has locked the spirit, except [`update_events`], which is one.

pub(in crate::store) mod statements;

use sqlx::FromRow;
use sqlx::types::chrono::{DateTime, Utc};
use uuid::Uuid;

use self::statements::{
    CHANGE_DELETION, DELETE_EVENTS, DRAW, DRAW_DELETED, DRAW_LOWERING, RECORD_EACH, RECORD_STEP,
    RESTORE_EVENTS, TIMES,
};
use super::deletions::{Scan, edit_statement, lock};
use super::event_updates::UpdatedRow;
use super::session_activity::{ActiveSessions, activate_sessions};
use crate::domain::change::{ChangeKind, ChangedFields};
use crate::domain::deletion::{Deletion, Restoration};
use crate::domain::edit::EventFields;
use crate::domain::event::Event;
use crate::domain::ids::SpiritId;
use crate::domain::limits::{CHANGE_EVENTS_MAX, DELETION_EVENTS_MAX};
use crate::domain::session::minute_of;
use crate::store::pg::error::StoreError;
use crate::store::pg::pool::ConnectionPool;
use crate::store::pg::rows::EventRow;
use crate::store::pg::session::{PgSession, Statement};
use crate::store::pg::transaction::{commit, fetch_all, optional, rollback};
use crate::store::read::list_events::bind_selection;

/// The names of the fields that a deletion or restore of several events changes.
const DELETION_FIELDS: [&str; 1] = ["is_deleted"];

#[derive(FromRow)]
struct TimesRow {
    now: DateTime<Utc>,
    deleted_at: DateTime<Utc>,
}

/// An edited event, and what is recorded of the edit.
#[derive(FromRow)]
pub(super) struct EditedRow {
    #[sqlx(flatten)]
    updated: UpdatedRow,
    id: Uuid,
    sequence: i64,
    fields: String,
    previous: String,
    changed_by: Option<String>,
}

/// The numbers that a change draws.
#[derive(Clone, Copy)]
pub(in crate::store) enum Draw {
    /// Active minutes stay as they are, or become higher.
    Raising,
    /// Active minutes may become lower.
    Lowering,
    /// A deletion at this time.
    Deleted(DateTime<Utc>),
}

/// Carries out edits of events of a spirit and records them. `edits` is the statement without the time of the edits.
pub(super) async fn update_events(
    pool: &ConnectionPool,
    spirit_id: SpiritId,
    edits: Statement<'static, EditedRow>,
) -> Result<Vec<UpdatedRow>, StoreError> {
    let update = async move |session: &mut PgSession| {
        let times = match lock(session, spirit_id).await? {
            Some(_) => Some(times(session, spirit_id).await?),
            None => None,
        };
        let mut rows = match &times {
            Some(times) => fetch_all(session, edits.bind(times.now)).await?,
            None => Vec::new(),
        };
        let Some(TimesRow { now, .. }) = times.filter(|_| !rows.is_empty()) else {
            rollback(session).await?;
            return Ok(Vec::new());
        };
        rows.sort_by_key(|row| row.updated.ordinal);
        let changes = draw(session, spirit_id, rows.len(), Draw::Raising).await?;
        record_each(session, spirit_id, ChangeKind::Updated, now, &rows, changes).await?;
        commit(session).await?;
        Ok(rows.into_iter().map(|row| row.updated).collect())
    };
    pool.transaction(spirit_id, move |session| Box::pin(update(session)))
        .await
}

/// Soft-deletes or restores an event together with its other changes. Returns `None` if its revision has changed since it
/// was read.
pub(super) async fn change_deletion(
    session: &mut PgSession,
    read: &Event,
    fields: EventFields,
    changed: ChangedFields,
    changed_by: Option<String>,
) -> Result<Option<EventRow>, StoreError> {
    let (spirit_id, is_deleted) = (read.spirit_id, fields.is_deleted);
    let TimesRow { now, deleted_at } = times(session, spirit_id).await?;
    let (time, kind, drawn) = if is_deleted {
        (deleted_at, ChangeKind::Deleted, Draw::Deleted(deleted_at))
    } else {
        (now, ChangeKind::Restored, Draw::Raising)
    };
    let statement = edit_statement(CHANGE_DELETION, read, &fields)
        .bind(time)
        .bind(is_deleted.then_some(deleted_at));
    let Some(row) = optional(session, statement).await? else {
        return Ok(None);
    };
    let edited = EditedRow {
        updated: UpdatedRow {
            ordinal: 1,
            meta: String::new(),
            revision: read.revision + 1,
            updated_at: time,
        },
        id: read.id.0,
        sequence: read.sequence,
        fields: changed.names.join(","),
        previous: changed.previous,
        changed_by,
    };
    let changes = draw(session, spirit_id, 1, drawn).await?;
    record_each(session, spirit_id, kind, time, &[edited], changes).await?;
    Ok(Some(row))
}

/// Soft-deletes the selected events. Returns their number and the time of the deletion. Records nothing if there are too
/// many.
pub(super) async fn delete_events(
    session: &mut PgSession,
    deletion: &Deletion,
) -> Result<(i64, Option<DateTime<Utc>>), StoreError> {
    let Deletion {
        selection,
        after_sequence,
        changed_by,
        ..
    } = deletion;
    let spirit_id = selection.spirit_id;
    let deleted_at = times(session, spirit_id).await?.deleted_at;
    let sql = DELETE_EVENTS[Scan::of(deletion) as usize];
    let statement = bind_selection(sqlx::query_as::<_, (Uuid, i64)>(sql), selection)
        .bind(after_sequence)
        .bind(deleted_at);
    let events = fetch_all(session, statement).await?;
    let count = number(events.len());
    if events.is_empty() || count > DELETION_EVENTS_MAX {
        return Ok((count, None));
    }
    let drawn = Draw::Deleted(deleted_at);
    let change = Change {
        kind: ChangeKind::Deleted,
        fields: &DELETION_FIELDS,
        changed_at: deleted_at,
        changed_by: changed_by.as_deref(),
    };
    record_steps(session, spirit_id, change, events, drawn).await?;
    Ok((count, Some(deleted_at)))
}

/// Restores the events that a deletion marked, records that, and raises the active minutes of their sessions. Returns their
/// number.
pub(super) async fn restore_events(
    session: &mut PgSession,
    restoration: &Restoration,
) -> Result<i64, StoreError> {
    let spirit_id = restoration.spirit_id;
    let now = times(session, spirit_id).await?.now;
    let statement = sqlx::query_as::<_, (Uuid, i64, Option<String>, DateTime<Utc>)>(RESTORE_EVENTS)
        .bind(spirit_id.0)
        .bind(restoration.deleted_at)
        .bind(&restoration.session_id)
        .bind(now);
    let events = fetch_all(session, statement).await?;
    if events.is_empty() {
        return Ok(0);
    }
    let mut sessions = ActiveSessions::new();
    for (_, _, session_id, occurred_at) in &events {
        if let Some(session_id) = session_id {
            let minute = minute_of(*occurred_at);
            let newest = sessions.entry((spirit_id, session_id)).or_insert(minute);
            *newest = minute.max(*newest);
        }
    }
    activate_sessions(session, &sessions).await?;
    let changed = events.iter().map(|(id, sequence, ..)| (*id, *sequence)).collect();
    let change = Change {
        kind: ChangeKind::Restored,
        fields: &DELETION_FIELDS,
        changed_at: now,
        changed_by: restoration.changed_by.as_deref(),
    };
    record_steps(session, spirit_id, change, changed, Draw::Raising).await?;
    Ok(number(events.len()))
}

/// A change of several events.
pub(in crate::store) struct Change<'c> {
    pub(in crate::store) kind: ChangeKind,
    pub(in crate::store) fields: &'c [&'c str],
    pub(in crate::store) changed_at: DateTime<Utc>,
    pub(in crate::store) changed_by: Option<&'c str>,
}

/// Draws change numbers for steps of events, given by id and sequence, and records the steps.
pub(in crate::store) async fn record_steps(
    session: &mut PgSession,
    spirit_id: SpiritId,
    change: Change<'_>,
    mut events: Vec<(Uuid, i64)>,
    drawn: Draw,
) -> Result<(), StoreError> {
    events.sort_unstable_by_key(|(_, sequence)| *sequence);
    let step = usize::try_from(CHANGE_EVENTS_MAX).unwrap_or(usize::MAX);
    let steps = events.chunks(step);
    let numbers = draw(session, spirit_id, steps.len(), drawn).await?;
    for (number, events) in numbers.zip(steps) {
        let (ids, sequences): (Vec<Uuid>, Vec<i64>) = events.iter().copied().unzip();
        let statement = sqlx::query_as::<_, ()>(RECORD_STEP)
            .bind(spirit_id.0)
            .bind(number)
            .bind(change.kind.name())
            .bind(ids)
            .bind(sequences)
            .bind(change.fields)
            .bind(change.changed_at)
            .bind(change.changed_by);
        fetch_all(session, statement).await?;
    }
    Ok(())
}

/// Returns the time of a change. The spirit has to exist.
pub(in crate::store) async fn time(
    session: &mut PgSession,
    spirit_id: SpiritId,
) -> Result<DateTime<Utc>, StoreError> {
    Ok(times(session, spirit_id).await?.now)
}

async fn times(session: &mut PgSession, spirit_id: SpiritId) -> Result<TimesRow, StoreError> {
    let times = optional(session, sqlx::query_as::<_, TimesRow>(TIMES).bind(spirit_id.0)).await?;
    times.ok_or_else(|| StoreError::Bug("a locked spirit was not found".to_owned()))
}

/// Draws this number of change numbers and returns them.
async fn draw(
    session: &mut PgSession,
    spirit_id: SpiritId,
    count: usize,
    drawn: Draw,
) -> Result<std::ops::RangeInclusive<i64>, StoreError> {
    let count = number(count);
    let statement = |sql| sqlx::query_as::<_, (i64,)>(sql).bind(spirit_id.0).bind(count);
    let statement = match drawn {
        Draw::Raising => statement(DRAW),
        Draw::Lowering => statement(DRAW_LOWERING),
        Draw::Deleted(deleted_at) => statement(DRAW_DELETED).bind(deleted_at),
    };
    let row = optional(session, statement).await?;
    let (last,) = row.ok_or_else(|| StoreError::Bug("a locked spirit was not found".to_owned()))?;
    Ok(last - count + 1..=last)
}

/// Records changes of one event each.
async fn record_each(
    session: &mut PgSession,
    spirit_id: SpiritId,
    kind: ChangeKind,
    changed_at: DateTime<Utc>,
    rows: &[EditedRow],
    changes: std::ops::RangeInclusive<i64>,
) -> Result<(), StoreError> {
    fn column<'r, T>(rows: &'r [EditedRow], value: impl Fn(&'r EditedRow) -> T) -> Vec<T> {
        rows.iter().map(value).collect()
    }
    let statement = sqlx::query_as::<_, ()>(RECORD_EACH)
        .bind(spirit_id.0)
        .bind(kind.name())
        .bind(changed_at)
        .bind(changes.collect::<Vec<i64>>())
        .bind(column(rows, |row| row.id))
        .bind(column(rows, |row| row.sequence))
        .bind(column(rows, |row| row.fields.as_str()))
        .bind(column(rows, |row| row.previous.as_str()))
        .bind(column(rows, |row| row.updated.revision))
        .bind(column(rows, |row| row.changed_by.as_deref()));
    fetch_all(session, statement).await?;
    Ok(())
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
