//! A flush of one event, which needs no transaction: one statement and one round trip.

use std::sync::Arc;

use sqlx::PgConnection;
use sqlx::types::chrono::{DateTime, Utc};

use super::flush::{Failure, Lock, Outcome};
use super::{Decided, Job};
use crate::domain::admission::Admitted;
use crate::domain::event::NewEvent;

pub(super) const INSERT_LONE: &str = include_str!("../queries/insert_lone_event.sql");

const UNIQUE_VIOLATION: &str = "23505";

/// The event of a flush that this file can do.
pub(super) fn lone_event(jobs: &[Job], lock: Lock) -> Option<&Arc<NewEvent>> {
    match jobs {
        [job] if lock == Lock::Skip => match job.items.as_slice() {
            [event] if event.expected_last_sequence.is_none() => Some(event),
            _ => None,
        },
        _ => None,
    }
}

/// Stores the event; `None` when the full flush has to decide, and nothing was changed.
pub(super) async fn flush_lone(
    connection: &mut PgConnection,
    event: &Arc<NewEvent>,
) -> Result<Option<Vec<Outcome>>, Failure> {
    let row: Option<(i64, DateTime<Utc>)> = match sqlx::query_as(INSERT_LONE)
        .bind(event.id.0)
        .bind(event.spirit_id.0)
        .bind(&event.event_type)
        .bind(&event.meta_summary)
        .bind(&event.content)
        .bind(event.occurred_at)
        .bind(&event.session_id)
        .bind(&event.role)
        .bind(&event.author)
        .bind(event.meta.as_json())
        .bind(&event.source_uri)
        .bind(&event.dedupe_key)
        .bind(event.importance_score)
        .fetch_optional(connection)
        .await
    {
        Ok(row) => row,
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(UNIQUE_VIOLATION) => None,
        Err(error) => return Err(Failure::of_commit(error)),
    };
    Ok(row.map(|(sequence, now)| vec![decided(event, sequence, now)]))
}

fn decided(event: &Arc<NewEvent>, sequence: i64, now: DateTime<Utc>) -> Outcome {
    let event = Arc::clone(event);
    Outcome::Decided(Decided {
        verdict: Ok(vec![Ok(Admitted::New { event, sequence })]),
        now,
    })
}
