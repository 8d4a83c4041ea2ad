//! A flush that has nothing to decide, which most are: one statement, one round trip.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use sqlx::Arguments as _;
use sqlx::types::chrono::{DateTime, Utc};
use tracing::Instrument as _;
use uuid::Uuid;

use super::arguments::add_events;
use super::job::{Decided, Job};
use super::outcome::{Failure, Outcome};
use crate::domain::admission::Admitted;
use crate::domain::event::NewEvent;
use crate::domain::ids::SpiritId;
use crate::store::pg::error::StoreError;
use crate::store::pg::session::PgSession;
use crate::store::pg::spans;

pub(in crate::store) const FAST_PATH: &str = include_str!("fast_path.sql");

const UNIQUE_VIOLATION: &str = "23505";

/// Whether the jobs have neither guards nor keys in common.
pub(super) fn is_eligible(jobs: &[Job]) -> bool {
    let mut keys: HashSet<(SpiritId, &str)> = HashSet::new();
    jobs.iter().flat_map(|job| &job.items).all(|item| {
        item.expected_last_sequence.is_none()
            && item
                .dedupe_key
                .as_deref()
                .is_none_or(|key| keys.insert((item.spirit_id, key)))
    })
}

/// Stores the jobs whose spirits are free and live, and leaves the others undecided; all of them, if a job
/// has several spirits, since it is not to be stored in part. `None` when a key is taken, and nothing was
/// changed.
pub(super) async fn insert_and_commit(
    session: &mut PgSession,
    jobs: &[Job],
) -> Result<Option<Vec<Outcome>>, Failure> {
    let mut gained: HashMap<Uuid, i64> = HashMap::new();
    let numbered: Vec<(&NewEvent, i64)> = jobs
        .iter()
        .flat_map(|job| &job.items)
        .map(|event| {
            let ordinal = gained.entry(event.spirit_id.0).or_default();
            *ordinal += 1;
            (event.as_ref(), *ordinal)
        })
        .collect();
    let (spirit_ids, counts): (Vec<Uuid>, Vec<i64>) = gained.into_iter().unzip();
    let mut arguments = sqlx::postgres::PgArguments::default();
    arguments
        .add(spirit_ids)
        .and_then(|()| arguments.add(counts))
        .and_then(|()| arguments.add(jobs.iter().any(has_several_spirits)))
        .and_then(|()| add_events(&mut arguments, &numbered))
        .map_err(|error| Failure::uncommitted(StoreError::Bug(error.to_string())))?;
    let begun = session.begin().await;
    begun.map_err(|error| Failure::uncommitted(error.into()))?;
    let stored = session
        .all(sqlx::query_as_with(FAST_PATH, arguments))
        .instrument(spans::statement(FAST_PATH))
        .await;
    let rows: Vec<(Uuid, i64, DateTime<Utc>)> = match stored {
        Ok(rows) => rows,
        Err(sqlx::Error::Database(error))
            if error.code().as_deref() == Some(UNIQUE_VIOLATION) && !session.is_in_transaction() =>
        {
            return Ok(None);
        }
        Err(error) => return Err(Failure::of_commit(error)),
    };
    Ok(Some(outcomes(jobs, rows)))
}

fn has_several_spirits(job: &Job) -> bool {
    let mut spirit_ids = job.items.iter().map(|item| item.spirit_id);
    let first = spirit_ids.next();
    spirit_ids.any(|spirit_id| Some(spirit_id) != first)
}

fn outcomes(jobs: &[Job], rows: Vec<(Uuid, i64, DateTime<Utc>)>) -> Vec<Outcome> {
    let Some(&(_, _, now)) = rows.first() else {
        return jobs.iter().map(|_| Outcome::Undecided).collect();
    };
    let mut last: HashMap<SpiritId, i64> = rows
        .into_iter()
        .map(|(id, base, _)| (SpiritId(id), base))
        .collect();
    jobs.iter()
        .map(|job| {
            let admitted = job.items.iter().map(|event| {
                let sequence = last.get_mut(&event.spirit_id)?;
                *sequence += 1;
                Some(Ok(Admitted::New {
                    event: Arc::clone(event),
                    sequence: *sequence,
                }))
            });
            match admitted.collect() {
                Some(results) => Outcome::Decided(Decided {
                    verdict: Ok(results),
                    now,
                }),
                None => Outcome::Undecided,
            }
        })
        .collect()
}
