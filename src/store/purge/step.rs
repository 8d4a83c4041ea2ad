//! A step of a purge: a short transaction that removes a page of events and what was kept of them elsewhere.

use sqlx::FromRow;
use sqlx::types::chrono::{DateTime, Utc};
use uuid::Uuid;

use super::sharded;
use super::statements::{
    CLEAR_FORMER_VALUES, LOCK, LOWER_ACTIVE_MINUTES, PURGE, REMOVE_CHANGES, REMOVE_EMPTY_SESSIONS,
    REMOVE_SESSIONS, STEP_ROWS_MAX, WALK_CHANGES, WALK_EMPTY_SESSIONS,
};
use super::walk::Walk;
use crate::domain::Time;
use crate::domain::ids::SpiritId;
use crate::domain::refusal::Refusal;
use crate::store::pg::error::StoreError;
use crate::store::pg::session::PgSession;
use crate::store::pg::transaction::{fetch_all, optional};

/// The purge that a step belongs to.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// `None` for retention, which adds the counts of a step to the purge of the day.
    pub(super) purge_id: Option<Uuid>,
    /// The author of the changes that are recorded.
    pub(super) changed_by: Option<String>,
    /// The owner that the sessions of the events must have.
    pub(super) owner: Option<String>,
    /// Whether the spirit has to be soft-deleted.
    pub(super) of_deleted_spirit: bool,
    pub(super) is_dry_run: bool,
}

/// The events that a step has removed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Purged {
    pub(super) count: i64,
    pub(super) lowest: Option<i64>,
    pub(super) highest: Option<i64>,
    /// Whether the page was full of events that are not selected.
    pub(super) passed_others: bool,
}

#[derive(FromRow)]
pub(super) struct PurgedRow {
    pub(super) count: i64,
    pub(super) lowest: Option<i64>,
    pub(super) highest: Option<i64>,
    pub(super) session_ids: Vec<String>,
    pub(super) occurred_at: Vec<DateTime<Utc>>,
}

/// Reads the next page of the walk and removes as many of its events as a step may, in the open transaction. A dry run
/// counts them.
pub(super) async fn purge_page(
    session: &mut PgSession,
    request: &Request,
    walk: &mut Walk,
) -> Result<Purged, StoreError> {
    let page = walk.page(session).await?;
    if request.is_dry_run || page.candidates.is_empty() {
        walk.advance(&page, page.candidates.len());
        let count = i64::try_from(page.candidates.len()).unwrap_or(i64::MAX);
        return Ok(Purged {
            count,
            passed_others: page.is_full_of_others(),
            ..Purged::default()
        });
    }
    lock(session, walk.spirit_id, request.of_deleted_spirit).await?;
    let taken = page.within_budget();
    let Some(candidates) = page.candidates.get(..taken).filter(|taken| !taken.is_empty()) else {
        clear_former_values(session, request, walk, page.candidates[0].sequence).await?;
        return Ok(Purged::default());
    };
    let sequences: Vec<i64> = candidates.iter().map(|candidate| candidate.sequence).collect();
    let row = if session.is_sharded() {
        sharded::purge(session, request, walk, sequences).await?
    } else {
        purge(session, request, walk, sequences).await?
    };
    settle_sessions(session, walk.spirit_id, &row).await?;
    walk.advance(&page, taken);
    Ok(Purged {
        count: row.count,
        lowest: row.lowest,
        highest: row.highest,
        passed_others: false,
    })
}

/// Removes the events with these sequences that are still selected, and what was kept of them elsewhere but their sessions.
async fn purge(
    session: &mut PgSession,
    request: &Request,
    walk: &Walk,
    sequences: Vec<i64>,
) -> Result<PurgedRow, StoreError> {
    let statement = sqlx::query_as::<_, PurgedRow>(PURGE)
        .bind(walk.spirit_id.0)
        .bind(sequences)
        .bind(walk.author())
        .bind(walk.deleted_until())
        .bind(&request.owner)
        .bind(request.purge_id)
        .bind(&request.changed_by);
    let row = optional(session, statement).await?;
    row.ok_or_else(|| StoreError::Bug("a purge returned no row".to_owned()))
}

/// Waits for the lock of the spirit and returns its last sequence.
pub(super) async fn lock(
    session: &mut PgSession,
    spirit_id: SpiritId,
    must_be_deleted: bool,
) -> Result<i64, StoreError> {
    let statement = sqlx::query_as::<_, (bool, i64)>(LOCK).bind(spirit_id.0);
    match optional(session, statement).await? {
        None => Err(Refusal::SpiritNotFound(spirit_id).into()),
        Some((false, _)) if must_be_deleted => Err(Refusal::SpiritNotDeleted(spirit_id).into()),
        Some((_, last_sequence)) => Ok(last_sequence),
    }
}

/// Clears some of the former values of an event.
async fn clear_former_values(
    session: &mut PgSession,
    request: &Request,
    walk: &Walk,
    sequence: i64,
) -> Result<(), StoreError> {
    let statement = sqlx::query_as::<_, ()>(CLEAR_FORMER_VALUES)
        .bind(walk.spirit_id.0)
        .bind(sequence)
        .bind(walk.author())
        .bind(walk.deleted_until())
        .bind(&request.owner);
    fetch_all(session, statement).await?;
    Ok(())
}

/// Removes the sessions that have lost their last event, and lowers the active minutes of the others.
async fn settle_sessions(
    session: &mut PgSession,
    spirit_id: SpiritId,
    purged: &PurgedRow,
) -> Result<(), StoreError> {
    if purged.session_ids.is_empty() {
        return Ok(());
    }
    remove_sessions(session, spirit_id, &purged.session_ids).await?;
    let statement = sqlx::query_as::<_, ()>(LOWER_ACTIVE_MINUTES)
        .bind(spirit_id.0)
        .bind(&purged.session_ids)
        .bind(&purged.occurred_at);
    fetch_all(session, statement).await?;
    Ok(())
}

/// Removes those of the sessions that have no event.
pub(super) async fn remove_sessions(
    session: &mut PgSession,
    spirit_id: SpiritId,
    session_ids: &[String],
) -> Result<(), StoreError> {
    let statement = sqlx::query_as::<_, ()>(REMOVE_SESSIONS)
        .bind(spirit_id.0)
        .bind(session_ids);
    fetch_all(session, statement).await?;
    Ok(())
}

/// Removes sessions without events after an id. Returns the last id that was read, unless no session follows.
pub(super) async fn remove_empty_sessions(
    session: &mut PgSession,
    spirit_id: SpiritId,
    after: &str,
    owner: Option<&str>,
) -> Result<Option<String>, StoreError> {
    let statement = sqlx::query_as::<_, (i64, Option<String>)>(WALK_EMPTY_SESSIONS)
        .bind(spirit_id.0)
        .bind(after);
    let Some((walked, Some(last))) = optional(session, statement).await? else {
        return Ok(None);
    };
    let statement = sqlx::query_as::<_, ()>(REMOVE_EMPTY_SESSIONS)
        .bind(spirit_id.0)
        .bind(after)
        .bind(&last)
        .bind(owner);
    fetch_all(session, statement).await?;
    Ok(Some(last).filter(|_| walked >= STEP_ROWS_MAX))
}

/// Removes changes after a number that were made before a time. Returns the last one, `None` if there is none.
pub(super) async fn remove_changes(
    session: &mut PgSession,
    spirit_id: SpiritId,
    after: i64,
    changed_until: Time,
) -> Result<Option<i64>, StoreError> {
    let statement = sqlx::query_as::<_, (Option<i64>,)>(WALK_CHANGES)
        .bind(spirit_id.0)
        .bind(after)
        .bind(changed_until);
    let Some((Some(last),)) = optional(session, statement).await? else {
        return Ok(None);
    };
    let statement = sqlx::query_as::<_, ()>(REMOVE_CHANGES)
        .bind(spirit_id.0)
        .bind(after)
        .bind(last);
    fetch_all(session, statement).await?;
    Ok(Some(last))
}
