//! The fast path of a large flush: a transaction that advances the spirits, inserts the events with `COPY` and
//! commits.

use std::collections::HashMap;

use futures_util::TryStreamExt as _;
use sqlx::{AssertSqlSafe, Either, FromRow as _};
use tracing::Instrument as _;
use uuid::Uuid;

use super::copy_events::copy_events;
use super::fast_path::{AdvancedRow, Gains, is_taken_key};
use super::job::Job;
use super::literals::{IDS, NUMBERS, bigints, push, uuids};
use super::outcome::Failure;
use super::session_activity::{ActiveSessions, activate_sessions, activity_of};
use super::writer::FlushSession;
use crate::domain::event::NewEvent;
use crate::store::pg::session::PgSession;
use crate::store::pg::spans;

pub(in crate::store) const ADVANCE_FREE_SPIRITS: &str = include_str!("advance_free_spirits.sql");

/// The parameter of [`ADVANCE_FREE_SPIRITS`] that requires all spirits to be free.
const ALL_OR_NOTHING: &str = "$3::boolean";

/// Stores the events of the spirits that are free and live, and returns these spirits. Returns `None` if a dedupe
/// key was taken; nothing was changed then.
pub(super) async fn copy_and_commit(
    session: &mut FlushSession,
    jobs: &[Job],
    gains: &Gains,
    sessions: &ActiveSessions<'_>,
) -> Result<Option<Vec<AdvancedRow>>, Failure> {
    let FlushSession {
        pg: session,
        activity,
    } = session;
    let advanced = advance(session, gains)
        .instrument(spans::statement(ADVANCE_FREE_SPIRITS))
        .await;
    let rows = advanced.map_err(|error| Failure::uncommitted(error.into()))?;
    let numbered = number(jobs, &rows);
    if !numbered.is_empty()
        && let Err(error) = copy_events(session, &numbered).await
    {
        if !is_taken_key(&error) {
            return Err(Failure::uncommitted(error.into()));
        }
        let ended = sqlx::raw_sql("rollback").execute(session.connection()).await;
        ended.map_err(|error| Failure::uncommitted(error.into()))?;
        return Ok(None);
    }
    let mut unknown = activity.unknown(
        sessions,
        activity_of(rows.iter().map(|row| (row.id, row.activity))),
    );
    unknown.retain(|(spirit_id, _), _| rows.iter().any(|row| row.id == spirit_id.0));
    let activated = activate_sessions(session, &unknown).await;
    activated.map_err(|error| Failure::uncommitted(error.into()))?;
    let committed = sqlx::raw_sql("commit").execute(session.connection()).await;
    committed.map_err(Failure::from_commit)?;
    Ok(Some(rows))
}

/// Begins the transaction and advances the spirits.
async fn advance(session: &mut PgSession, gains: &Gains) -> Result<Vec<AdvancedRow>, sqlx::Error> {
    let statement = ADVANCE_FREE_SPIRITS
        .replace(IDS, &uuids(&gains.spirit_ids))
        .replace(NUMBERS, &bigints(&gains.events))
        .replace(ALL_OR_NOTHING, &gains.all_or_nothing.to_string());
    let mut sql = session.begin_sql();
    push(&mut sql, &statement);
    let mut rows = Vec::with_capacity(gains.spirit_ids.len());
    let mut results = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_many(session.connection());
    while let Some(result) = results.try_next().await? {
        if let Either::Right(row) = result {
            rows.push(AdvancedRow::from_row(&row)?);
        }
    }
    Ok(rows)
}

/// Returns the events of the advanced spirits, each with its sequence. Those of a spirit follow each other, so that
/// entries of the indexes go to the same pages.
fn number<'j>(jobs: &'j [Job], rows: &[AdvancedRow]) -> Vec<(&'j NewEvent, i64)> {
    let mut sequences: HashMap<Uuid, i64> = rows.iter().map(|row| (row.id, row.base)).collect();
    let mut numbered: Vec<_> = jobs
        .iter()
        .flat_map(|job| &job.items)
        .filter_map(|event| {
            let sequence = sequences.get_mut(&event.spirit_id.0)?;
            *sequence += 1;
            Some((event.as_ref(), *sequence))
        })
        .collect();
    numbered.sort_by_key(|(event, _)| event.spirit_id.0);
    numbered
}
