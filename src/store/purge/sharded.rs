//! A step of a purge on a distributed database: statements that each change one table, in place of a single one.

use std::collections::BTreeMap;

use sqlx::types::chrono::{DateTime, Utc};
use uuid::Uuid;

use super::statements::PURGE_SELECTED;
use super::step::{PurgedRow, Request};
use super::walk::Walk;
use crate::domain::change::ChangeKind;
use crate::store::pg::error::StoreError;
use crate::store::pg::session::PgSession;
use crate::store::pg::transaction::fetch_all;
use crate::store::write::sharded::{Change, Draw, record_steps, time};

/// Stores a purge of an existing spirit. The bound of the purge is read by another statement, since Citus refuses to read a
/// table for `returning`.
pub(in crate::store) const START: &str = "
    insert into purges (spirit_id, purge_id, selection, reason, requested_by)
    select id, $2, $3, $4, $5
    from spirits
    where id = $1
    and ($3 <> 'spirit' or deleted_at is not null)
    returning 0::bigint as last_sequence";

/// Clears the former values in changes of events `$2`.
pub(in crate::store) const CLEAR_CHANGES: &str = "
    update changes
    set previous = null
    where spirit_id = $1
    and event_id = any($2::uuid[])
    and previous_bytes is not null";

/// Adds `$3` events with sequences from `$4` to `$5` to a purge.
pub(in crate::store) const ADD_TO_PURGE: &str = "
    update purges
    set purged_count = purged_count + $3,
        lowest_sequence = least(lowest_sequence, $4),
        highest_sequence = greatest(highest_sequence, $5)
    where spirit_id = $1
    and purge_id = $2";

/// Removes the events with these sequences that are still selected, clears the former values in their changes, records a
/// change and adds the events to the purge. The spirit has to be locked.
pub(super) async fn purge(
    session: &mut PgSession,
    request: &Request,
    walk: &Walk,
    sequences: Vec<i64>,
) -> Result<PurgedRow, StoreError> {
    let spirit_id = walk.spirit_id;
    let statement = sqlx::query_as::<_, (Uuid, i64, Option<String>, DateTime<Utc>)>(PURGE_SELECTED)
        .bind(spirit_id.0)
        .bind(sequences)
        .bind(walk.author())
        .bind(walk.deleted_until())
        .bind(&request.owner);
    let events = fetch_all(session, statement).await?;
    let purged = purged(&events);
    if events.is_empty() {
        return Ok(purged);
    }
    let ids: Vec<Uuid> = events.iter().map(|(id, ..)| *id).collect();
    let cleared = sqlx::query_as::<_, ()>(CLEAR_CHANGES).bind(spirit_id.0).bind(ids);
    fetch_all(session, cleared).await?;
    let change = Change {
        kind: ChangeKind::Purged,
        fields: &[],
        changed_at: time(session, spirit_id).await?,
        changed_by: request.changed_by.as_deref(),
    };
    let recorded = events
        .into_iter()
        .map(|(id, sequence, ..)| (id, sequence))
        .collect();
    record_steps(session, spirit_id, change, recorded, Draw::Lowering).await?;
    if let Some(purge_id) = request.purge_id {
        let added = sqlx::query_as::<_, ()>(ADD_TO_PURGE)
            .bind(spirit_id.0)
            .bind(purge_id)
            .bind(purged.count)
            .bind(purged.lowest)
            .bind(purged.highest);
        fetch_all(session, added).await?;
    }
    Ok(purged)
}

/// Returns the counts of purged events, and their sessions, each with the time of its newest event.
fn purged(events: &[(Uuid, i64, Option<String>, DateTime<Utc>)]) -> PurgedRow {
    let mut sessions: BTreeMap<&str, DateTime<Utc>> = BTreeMap::new();
    for (_, _, session_id, occurred_at) in events {
        if let Some(session_id) = session_id {
            let newest = sessions.entry(session_id).or_insert(*occurred_at);
            *newest = (*newest).max(*occurred_at);
        }
    }
    let sequences = || events.iter().map(|(_, sequence, ..)| *sequence);
    PurgedRow {
        count: i64::try_from(events.len()).unwrap_or(i64::MAX),
        lowest: sequences().min(),
        highest: sequences().max(),
        session_ids: sessions.keys().map(|id| (*id).to_owned()).collect(),
        occurred_at: sessions.into_values().collect(),
    }
}
