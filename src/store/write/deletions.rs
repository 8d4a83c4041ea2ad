//! Soft deletes and restores: of one event with its other changes, and of many events at once.
//!
//! Each is a transaction: it locks the spirit first, then reads and changes events with a new snapshot, and keeps the
//! active minutes of sessions exact. A deletion has a time of its own within its spirit, by which it can be undone.

use futures_util::TryStreamExt as _;
use sqlx::types::chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, Either, Row as _};
use tracing::Instrument as _;

use super::EventWriter;
use super::deletion_statements::{
    COUNT_SELECTED, DELETE_EVENT, DELETE_EVENTS, LOCK_SPIRIT, LOWER_ACTIVE_MINUTE, LOWER_ACTIVE_MINUTES,
    RESTORE_EVENT, RESTORE_EVENTS,
};
use super::literals::{IDS, push, uuids};
use super::session_activity::{ActiveSessions, activate_sessions};
use super::session_last_sequences::session_last_sequences;
use super::sharded;
use crate::domain::Time;
use crate::domain::admission::{check_last_sequence, check_session_last_sequence};
use crate::domain::change::{ChangeKind, ChangedFields};
use crate::domain::deletion::{Deleted, Deletion, Restoration};
use crate::domain::edit::EventFields;
use crate::domain::event::Event;
use crate::domain::ids::SpiritId;
use crate::domain::limits::{CHANGE_EVENTS_MAX, DELETION_EVENTS_MAX};
use crate::domain::refusal::Refusal;
use crate::domain::session::minute_of;
use crate::store::live::Topic;
use crate::store::pg::error::StoreError;
use crate::store::pg::rows::EventRow;
use crate::store::pg::session::{PgSession, Statement};
use crate::store::pg::spans;
use crate::store::pg::transaction::{begin, commit, optional, rollback};
use crate::store::read::list_events::bind_selection;

/// The index that a statement over selected events scans.
#[derive(Clone, Copy, Debug)]
pub(super) enum Scan {
    Sequence,
    Session,
    OccurredAt,
}

impl Scan {
    pub(super) fn of(deletion: &Deletion) -> Self {
        if deletion.selection.session_id.is_some() {
            Self::Session
        } else if deletion.after_sequence > 0 {
            Self::Sequence
        } else {
            Self::OccurredAt
        }
    }
}

impl EventWriter {
    /// Soft-deletes or restores the event together with its other changes. Returns `None` if its revision has changed
    /// since it was read.
    pub(super) async fn change_deletion(
        &self,
        read: &Event,
        fields: EventFields,
        changed_by: Option<String>,
    ) -> Result<Option<Event>, StoreError> {
        let (spirit_id, read) = (read.spirit_id, read.clone());
        let kind = if fields.is_deleted {
            ChangeKind::Deleted
        } else {
            ChangeKind::Restored
        };
        let change = async move |session: &mut PgSession| {
            let is_found = lock(session, spirit_id).await?.is_some();
            let changed = ChangedFields::between(&read, &fields);
            let row = if !is_found {
                None
            } else if session.is_sharded() {
                sharded::change_deletion(session, &read, fields, changed, changed_by).await?
            } else {
                change_event(session, &read, fields, changed, changed_by).await?
            };
            let Some(row) = row else {
                rollback(session).await?;
                return Ok(None);
            };
            let event = Event::from(row);
            match (event.deleted_at, &event.session_id) {
                (Some(_), Some(session_id)) => lower_active_minute(session, spirit_id, session_id).await?,
                (None, Some(session_id)) => {
                    let session_key = (spirit_id, session_id.as_str());
                    let sessions = ActiveSessions::from([(session_key, minute_of(event.occurred_at))]);
                    activate_sessions(session, &sessions).await?;
                }
                (_, None) => {}
            }
            commit(session).await?;
            Ok(Some(event))
        };
        let changed = self
            .pool
            .transaction(spirit_id, move |session| Box::pin(change(session)))
            .await?;
        if changed.is_some() {
            self.record_changes(spirit_id, kind, 1);
        }
        Ok(changed)
    }

    /// Soft-deletes the selected events in one transaction.
    pub async fn delete_events(&self, deletion: Deletion) -> Result<Deleted, StoreError> {
        let spirit_id = deletion.selection.spirit_id;
        let deleted = self
            .pool
            .transaction(spirit_id, move |session| {
                Box::pin(async move {
                    match count_and_delete_events(session, &deletion).await {
                        Err(StoreError::Refused(refusal)) => {
                            rollback(session).await?;
                            Ok(Err(refusal))
                        }
                        result => result.map(Ok),
                    }
                })
            })
            .await??;
        self.record_changes(spirit_id, ChangeKind::Deleted, deleted.count);
        Ok(deleted)
    }

    /// Restores the events that a deletion marked and that are still deleted. Returns their number.
    pub async fn restore_events(&self, restoration: Restoration) -> Result<i64, StoreError> {
        let spirit_id = restoration.spirit_id;
        let restored = self.pool.transaction(spirit_id, move |session| {
            Box::pin(async move {
                if lock(session, spirit_id).await?.is_none() {
                    rollback(session).await?;
                    return Ok(Err(Refusal::SpiritNotFound(spirit_id)));
                }
                let count = if session.is_sharded() {
                    sharded::restore_events(session, &restoration).await?
                } else {
                    restore_events(session, &restoration).await?
                };
                commit(session).await?;
                Ok(Ok(count))
            })
        });
        let restored_count = restored.await??;
        self.record_changes(spirit_id, ChangeKind::Restored, restored_count);
        Ok(restored_count)
    }

    /// Counts the changes of this number of events after their commit, and wakes the streams that follow them.
    fn record_changes(&self, spirit_id: SpiritId, kind: ChangeKind, events: i64) {
        let steps = events.unsigned_abs().div_ceil(CHANGE_EVENTS_MAX.unsigned_abs());
        if steps > 0 {
            self.metrics.count_changes(kind, steps);
            self.announcer.announce(&[spirit_id], Topic::Changes);
        }
    }
}

/// Soft-deletes or restores an event together with its other changes. Returns `None` if its revision has changed.
async fn change_event(
    session: &mut PgSession,
    read: &Event,
    fields: EventFields,
    changed: ChangedFields,
    changed_by: Option<String>,
) -> Result<Option<EventRow>, StoreError> {
    let sql = if fields.is_deleted {
        DELETE_EVENT
    } else {
        RESTORE_EVENT
    };
    let statement = edit_statement(sql, read, &fields)
        .bind(changed.names)
        .bind(changed.previous)
        .bind(changed_by);
    optional(session, statement).await
}

/// Returns a statement that edits an event, with the parameters up to its new author.
pub(super) fn edit_statement<'q>(
    sql: &'static str,
    read: &Event,
    fields: &'q EventFields,
) -> Statement<'q, EventRow> {
    sqlx::query_as(sql)
        .bind(read.spirit_id.0)
        .bind(read.id.0)
        .bind(read.revision)
        .bind(fields.meta_summary.as_deref())
        .bind(fields.importance_score)
        .bind(fields.meta.as_json())
        .bind(fields.role.as_deref())
        .bind(fields.author.as_deref())
}

/// Restores the events that a deletion marked and records that. Returns their number.
async fn restore_events(session: &mut PgSession, restoration: &Restoration) -> Result<i64, StoreError> {
    let statement = sqlx::query_as::<_, (i64,)>(RESTORE_EVENTS)
        .bind(restoration.spirit_id.0)
        .bind(restoration.deleted_at)
        .bind(&restoration.session_id)
        .bind(&restoration.changed_by);
    let count = optional(session, statement).await?;
    Ok(count.map_or(0, |(count,)| count))
}

/// Soft-deletes the selected events. They are counted in a transaction of its own before, so that a selection that is too
/// large does not keep the spirit locked. If it is refused, a transaction is open.
async fn count_and_delete_events(
    session: &mut PgSession,
    deletion: &Deletion,
) -> Result<Deleted, StoreError> {
    begin(session).await?;
    check_count(count_events(session, deletion).await?)?;
    commit(session).await?;
    delete_events(session, deletion).await
}

/// Counts the selected events, up to one more than a deletion may take.
async fn count_events(session: &mut PgSession, deletion: &Deletion) -> Result<i64, StoreError> {
    let Deletion {
        selection,
        after_sequence,
        ..
    } = deletion;
    let sql = COUNT_SELECTED[Scan::of(deletion) as usize];
    let statement = bind_selection(sqlx::query_as::<_, (i64,)>(sql), selection)
        .bind(after_sequence)
        .bind(DELETION_EVENTS_MAX + 1);
    let counted = optional(session, statement).await;
    let counted = counted.map_err(|error| error.in_filter(&selection.filter))?;
    Ok(counted.map_or(0, |(count,)| count))
}

/// Checks the guards of a deletion, carries it out and commits.
async fn delete_events(session: &mut PgSession, deletion: &Deletion) -> Result<Deleted, StoreError> {
    let Deletion {
        selection,
        expected_last_sequence,
        expected_session_last_sequence,
        ..
    } = deletion;
    let spirit_id = selection.spirit_id;
    let last_sequence = lock(session, spirit_id).await?;
    let last_sequence = last_sequence.ok_or(Refusal::SpiritNotFound(spirit_id))?;
    check_last_sequence(*expected_last_sequence, last_sequence)?;
    if let (Some(_), Some(session_id)) = (expected_session_last_sequence, &selection.session_id) {
        let actual = session_last_sequence(session, spirit_id, session_id).await?;
        check_session_last_sequence(*expected_session_last_sequence, session_id, actual)?;
    }

    let deleted = if session.is_sharded() {
        sharded::delete_events(session, deletion).await
    } else {
        delete_selected(session, deletion).await
    };
    let (count, deleted_at) = deleted.map_err(|error| error.in_filter(&selection.filter))?;
    check_count(count)?;
    let Some(deleted_at) = deleted_at else {
        rollback(session).await?;
        return Ok(Deleted::default());
    };
    match &selection.session_id {
        Some(session_id) => lower_active_minute(session, spirit_id, session_id).await?,
        None => lower_active_minutes(session, spirit_id, deleted_at).await?,
    }
    commit(session).await?;
    Ok(Deleted {
        count,
        deleted_at: Some(deleted_at),
    })
}

/// Soft-deletes the selected events and records that. Returns their number and the time of the deletion.
async fn delete_selected(
    session: &mut PgSession,
    deletion: &Deletion,
) -> Result<(i64, Option<DateTime<Utc>>), StoreError> {
    let sql = DELETE_EVENTS[Scan::of(deletion) as usize];
    let statement = bind_selection(sqlx::query_as(sql), &deletion.selection)
        .bind(deletion.after_sequence)
        .bind(&deletion.changed_by);
    let deleted = optional(session, statement).await?;
    Ok(deleted.unwrap_or_default())
}

/// Fails if a deletion would take too many events.
fn check_count(count: i64) -> Result<(), Refusal> {
    if count <= DELETION_EVENTS_MAX {
        return Ok(());
    }
    Err(Refusal::TooManyEvents {
        max: DELETION_EVENTS_MAX,
    })
}

/// Begins a transaction and waits for the lock of the spirit. Returns its last sequence; `None` if it does not exist.
pub(super) async fn lock(session: &mut PgSession, spirit_id: SpiritId) -> Result<Option<i64>, StoreError> {
    let mut sql = session.begin_sql();
    push(&mut sql, &LOCK_SPIRIT.replace(IDS, &uuids(&[spirit_id.0])));
    let locked = async {
        let mut results = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_many(session.connection());
        let mut last_sequence = None;
        while let Some(result) = results.try_next().await? {
            if let Either::Right(row) = result {
                last_sequence = Some(row.try_get(0)?);
            }
        }
        Ok(last_sequence)
    };
    locked.instrument(spans::statement(LOCK_SPIRIT)).await
}

/// Lowers the active minute of a session from which events were deleted.
async fn lower_active_minute(
    session: &mut PgSession,
    spirit_id: SpiritId,
    session_id: &str,
) -> Result<(), StoreError> {
    sqlx::query(LOWER_ACTIVE_MINUTE)
        .bind(spirit_id.0)
        .bind(session_id)
        .persistent(session.keeps_prepared_statements())
        .execute(session.connection())
        .instrument(spans::statement(LOWER_ACTIVE_MINUTE))
        .await?;
    Ok(())
}

/// Lowers the active minutes of the sessions from which the deletion at this time took events. The statement is planned
/// for the size of the tables at that time.
async fn lower_active_minutes(
    session: &mut PgSession,
    spirit_id: SpiritId,
    deleted_at: Time,
) -> Result<(), StoreError> {
    sqlx::query(LOWER_ACTIVE_MINUTES)
        .bind(spirit_id.0)
        .bind(deleted_at)
        .persistent(false)
        .execute(session.connection())
        .instrument(spans::statement(LOWER_ACTIVE_MINUTES))
        .await?;
    Ok(())
}

/// Returns the last sequence of a session; 0 if it has no event.
async fn session_last_sequence(
    session: &mut PgSession,
    spirit_id: SpiritId,
    session_id: &str,
) -> Result<i64, StoreError> {
    let statement =
        sqlx::query_as::<_, (uuid::Uuid, String, i64)>(session_last_sequences(session.is_sharded()))
            .bind(vec![spirit_id.0])
            .bind(vec![session_id]);
    let row = optional(session, statement).await?;
    Ok(row.map_or(0, |(_, _, sequence)| sequence))
}
