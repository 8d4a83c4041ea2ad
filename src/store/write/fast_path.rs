//! The fast path: stores a flush that needs no decision about any item with one statement in one round trip, or
//! with `COPY` if it is large. Most flushes take it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use const_format::{concatcp, str_replace};
use sqlx::error::{BoxDynError, DatabaseError};
use sqlx::postgres::PgArguments;
use sqlx::types::chrono::{DateTime, Utc};
use sqlx::{Arguments as _, FromRow};
use tracing::Instrument as _;
use uuid::Uuid;

use super::arguments::add_events;
use super::copy_events::COPY_EVENTS_MIN;
use super::copy_path::copy_and_commit;
use super::flush::Lock;
use super::job::{Decision, Job};
use super::outcome::{Failure, Outcome};
use super::session_activity::{
    ActiveSessions, ActivityCache, ActivityRow, RAISE_ACTIVE_MINUTE, active_sessions, activity_of, columns,
};
use super::writer::FlushSession;
use crate::domain::admission::Admitted;
use crate::domain::event::NewEvent;
use crate::domain::ids::SpiritId;
use crate::store::pg::error::StoreError;
use crate::store::pg::session::PgSession;
use crate::store::pg::spans;

const TEMPLATE: &str = include_str!("fast_path.sql");
const ACTIVATE_SESSIONS: &str = "{activate_sessions}";

const SKIP_LOCKED: &str = " skip locked";

/// The statement for a flush whose sessions are known to be recorded.
pub(in crate::store) const FAST_PATH: &str = str_replace!(TEMPLATE, ACTIVATE_SESSIONS, "");

/// The statement for a flush that records sessions.
pub(in crate::store) const FAST_PATH_ACTIVATING: &str = str_replace!(
    TEMPLATE,
    ACTIVATE_SESSIONS,
    concatcp!(
        ",
activated as (
    insert into sessions (spirit_id, session_id, active_minute)
    select active.spirit_id, active.session_id, active.minute
    from advanced
    join unnest($20::uuid[], $21::text[], $22::timestamptz[]) as active (spirit_id, session_id, minute)
        on active.spirit_id = advanced.id
    ",
        RAISE_ACTIVE_MINUTE,
        ")"
    )
);

/// The statements for a flush of one spirit, which wait until it is no longer locked.
pub(in crate::store) const FAST_PATH_WAITING: &str = str_replace!(FAST_PATH, SKIP_LOCKED, "");
pub(in crate::store) const FAST_PATH_WAITING_ACTIVATING: &str =
    str_replace!(FAST_PATH_ACTIVATING, SKIP_LOCKED, "");

const UNIQUE_VIOLATION: &str = "23505";

/// A spirit that gained events.
#[derive(Debug, FromRow)]
pub(super) struct AdvancedRow {
    pub(super) id: Uuid,
    /// Its `last_sequence` before the flush.
    pub(super) base: i64,
    /// The time of the transaction.
    now: DateTime<Utc>,
    #[sqlx(flatten)]
    pub(super) activity: ActivityRow,
}

/// Returns whether no item has a guard, no two items have the same dedupe key, and, to wait for a spirit, all items are
/// of this spirit and few enough for one statement.
pub(super) fn is_eligible(jobs: &[Job], lock: Lock) -> bool {
    match lock {
        Lock::Skip => {}
        Lock::WaitFor(spirit_id) => {
            let mut items = jobs.iter().flat_map(|job| &job.items);
            if count_events(jobs) >= COPY_EVENTS_MIN || items.any(|item| item.spirit_id != spirit_id) {
                return false;
            }
        }
        Lock::WaitForAll => return false,
    }
    let mut keys: HashSet<(SpiritId, &str)> = HashSet::new();
    jobs.iter().flat_map(|job| &job.items).all(|item| {
        item.expected_last_sequence.is_none()
            && item.expected_session_last_sequence.is_none()
            && item
                .dedupe_key
                .as_deref()
                .is_none_or(|key| keys.insert((item.spirit_id, key)))
    })
}

fn count_events(jobs: &[Job]) -> usize {
    jobs.iter().map(|job| job.items.len()).sum()
}

/// The spirits that gain events in a flush.
pub(super) struct Gains {
    pub(super) spirit_ids: Vec<Uuid>,
    /// Number of new events of each spirit.
    pub(super) events: Vec<i64>,
    /// Whether all the spirits have to be free and live, so that no job is stored in part.
    pub(super) all_or_nothing: bool,
}

impl Gains {
    fn of(jobs: &[Job]) -> Self {
        let mut events: HashMap<Uuid, i64> = HashMap::new();
        for item in jobs.iter().flat_map(|job| &job.items) {
            *events.entry(item.spirit_id.0).or_default() += 1;
        }
        let (spirit_ids, events) = events.into_iter().unzip();
        Self {
            spirit_ids,
            events,
            all_or_nothing: jobs.iter().any(Job::has_several_spirits),
        }
    }
}

/// Stores the jobs whose spirits exist and are neither deleted nor locked; the other jobs stay undecided. A spirit for
/// which `lock` waits does not count as locked. If a job has several spirits, all jobs are stored or none, so that no job is
/// stored in part. Returns `None` if a dedupe key was taken; nothing was changed then.
pub(super) async fn insert_and_commit(
    session: &mut FlushSession,
    jobs: &[Job],
    lock: Lock,
) -> Result<Option<Vec<Outcome>>, Failure> {
    let gains = Gains::of(jobs);
    let sessions = active_sessions(jobs.iter().flat_map(|job| &job.items).map(Arc::as_ref));
    let rows = if count_events(jobs) >= COPY_EVENTS_MIN && session.pg.may_copy() {
        copy_and_commit(session, jobs, &gains, &sessions).await?
    } else {
        let FlushSession { pg, activity } = session;
        insert_in_one_statement(pg, jobs, gains, &sessions, activity, lock).await?
    };
    let Some(rows) = rows else { return Ok(None) };
    session.activity.remember(
        &sessions,
        activity_of(rows.iter().map(|row| (row.id, row.activity))),
    );
    Ok(Some(outcomes(jobs, rows)))
}

/// Returns whether the error means that a dedupe key was taken.
pub(super) fn is_taken_key(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(DatabaseError::code);
    code.as_deref() == Some(UNIQUE_VIOLATION)
}

async fn insert_in_one_statement(
    session: &mut PgSession,
    jobs: &[Job],
    gains: Gains,
    sessions: &ActiveSessions<'_>,
    cache: &ActivityCache,
    lock: Lock,
) -> Result<Option<Vec<AdvancedRow>>, Failure> {
    let mut unknown = ActiveSessions::new();
    let mut epochs: HashMap<SpiritId, i64> = HashMap::new();
    for (&(spirit_id, session_id), &minute) in sessions {
        match cache.epoch_of(spirit_id, session_id, minute) {
            // `epoch_of` returns the same epoch for all sessions of a spirit.
            Some(epoch) => {
                epochs.insert(spirit_id, epoch);
            }
            None => {
                unknown.insert((spirit_id, session_id), minute);
            }
        }
    }
    let statement = match (lock, unknown.is_empty()) {
        (Lock::Skip, true) => FAST_PATH,
        (Lock::Skip, false) => FAST_PATH_ACTIVATING,
        (Lock::WaitFor(_) | Lock::WaitForAll, true) => FAST_PATH_WAITING,
        (Lock::WaitFor(_) | Lock::WaitForAll, false) => FAST_PATH_WAITING_ACTIVATING,
    };
    let arguments = arguments(jobs, gains, &epochs, cache, &unknown);
    let arguments = arguments.map_err(|error| Failure::uncommitted(StoreError::Bug(error.to_string())))?;
    let began = session.begin_if_pooled().await;
    began.map_err(|error| Failure::uncommitted(error.into()))?;
    let result = session
        .all(sqlx::query_as_with(statement, arguments))
        .instrument(spans::statement(FAST_PATH))
        .await;
    match result {
        Ok(rows) => Ok(Some(rows)),
        Err(error) if is_taken_key(&error) && !session.is_in_transaction() => Ok(None),
        Err(error) => Err(Failure::from_commit(error)),
    }
}

fn arguments(
    jobs: &[Job],
    gains: Gains,
    epochs: &HashMap<SpiritId, i64>,
    cache: &ActivityCache,
    unknown: &ActiveSessions<'_>,
) -> Result<PgArguments, BoxDynError> {
    let mut ordinals: HashMap<Uuid, i64> = HashMap::new();
    let numbered: Vec<(&NewEvent, i64)> = jobs
        .iter()
        .flat_map(|job| &job.items)
        .map(|event| {
            let ordinal = ordinals.entry(event.spirit_id.0).or_default();
            *ordinal += 1;
            (event.as_ref(), *ordinal)
        })
        .collect();
    let expected_epoch = |id: &Uuid| epochs.get(&SpiritId(*id)).copied();
    let expected_epochs: Vec<Option<i64>> = gains.spirit_ids.iter().map(expected_epoch).collect();
    let mut arguments = PgArguments::default();
    arguments.add(gains.spirit_ids)?;
    arguments.add(gains.events)?;
    arguments.add(gains.all_or_nothing)?;
    arguments.add(expected_epochs)?;
    arguments.add(cache.server_started_at())?;
    add_events(&mut arguments, &numbered)?;
    if !unknown.is_empty() {
        let (spirit_ids, session_ids, minutes) = columns(unknown);
        arguments.add(spirit_ids)?;
        arguments.add(session_ids)?;
        arguments.add(minutes)?;
    }
    Ok(arguments)
}

fn outcomes(jobs: &[Job], rows: Vec<AdvancedRow>) -> Vec<Outcome> {
    let Some(now) = rows.first().map(|row| row.now) else {
        return jobs.iter().map(|_| Outcome::Undecided).collect();
    };
    let mut last_sequences: HashMap<SpiritId, i64> =
        rows.into_iter().map(|row| (SpiritId(row.id), row.base)).collect();
    jobs.iter()
        .map(|job| {
            let admitted = job.items.iter().map(|event| {
                let sequence = last_sequences.get_mut(&event.spirit_id)?;
                *sequence += 1;
                Some(Ok(Admitted::New {
                    event: Arc::clone(event),
                    sequence: *sequence,
                }))
            });
            match admitted.collect() {
                Some(results) => Outcome::Decided(Decision {
                    verdict: Ok(results),
                    now,
                }),
                None => Outcome::Undecided,
            }
        })
        .collect()
}
