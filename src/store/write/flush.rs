//! A full flush: a transaction that locks the spirits, decides every job and inserts the admitted events.

use std::collections::{HashMap, HashSet};

use futures_util::TryStreamExt as _;
use sqlx::postgres::PgArguments;
use sqlx::types::chrono::{DateTime, Utc};
use sqlx::{Arguments as _, AssertSqlSafe, Either, FromRow, Row as _};
use tracing::Instrument as _;
use uuid::Uuid;

use super::arguments::add_events;
use super::copy_events::{COPY_EVENTS_MIN, copy_events};
use super::dedupe_keys::read_dedupe_keys;
use super::job::{Decision, Job};
use super::literals::{IDS, NUMBERS, bigints, push, uuids};
use super::outcome::{Failure, Outcome};
use super::session_activity::{ActivityRow, activate_sessions, active_sessions, activity_of};
use super::session_last_sequences::read_session_last_sequences;
use super::writer::FlushSession;
use crate::domain::admission::{FlushState, SpiritState};
use crate::domain::event::NewEvent;
use crate::domain::ids::SpiritId;
use crate::panics::caught;
use crate::store::pg::error::StoreError;
use crate::store::pg::session::PgSession;
use crate::store::pg::spans;

/// Locks the spirits that no other transaction has locked and returns them.
pub(in crate::store) const LOCK_SPIRITS: &str = "
    select id
    from spirits
    where id = any($1::uuid[])
    order by id
    for no key update skip locked";

/// Waits for the lock of a spirit.
pub(in crate::store) const WAIT_FOR_SPIRIT: &str = "
    select id
    from spirits
    where id = any($1::uuid[])
    for no key update";

/// Reads the spirits and the time of the transaction.
pub(in crate::store) const READ_SPIRITS: &str = "
    select
        id, deleted_at is not null as is_deleted, last_sequence, now() as now, activity_epoch,
        pg_postmaster_start_time() as server_started_at
    from spirits
    where id = any($1::uuid[])";

pub(in crate::store) const INSERT_EVENTS: &str = include_str!("insert_events.sql");

/// Stores the new last sequences of spirits.
pub(in crate::store) const ADVANCE_SPIRITS: &str = "
    update spirits
    set last_sequence = moved.last_sequence
    from unnest($1::uuid[], $2::bigint[]) as moved (id, last_sequence)
    where spirits.id = any($1::uuid[])
    and spirits.id = moved.id";

/// The handling of spirits that another transaction has locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lock {
    /// Skip them; their jobs end as [`Outcome::Locked`].
    Skip,
    /// Wait for the lock of this spirit, up to the statement timeout, before any other spirit is locked. A
    /// waiting transaction holds no locks, so it blocks no other transaction and no deadlock can arise.
    WaitFor(SpiritId),
}

/// The new `last_sequence` of each spirit that gains events.
type LastSequences = Vec<(Uuid, i64)>;

/// Decides the jobs in order and commits.
///
/// Takes at most four round trips for any number of jobs: begin, lock and read the spirits; read the dedupe keys;
/// insert; advance the spirits and commit. The first and the last send several statements at once, which only the
/// simple query protocol supports, without parameters. One more is needed for `COPY` if there are enough events, one if
/// an item expects the last sequence of its session, and one to record sessions.
pub(super) async fn decide_and_commit(
    session: &mut FlushSession,
    jobs: &[Job],
    lock: Lock,
) -> Result<Vec<Outcome>, Failure> {
    // A panic before the commit is handled like a data error: the other jobs are stored without the one that
    // caused it.
    let written = caught(decide_and_insert(session, jobs, lock))
        .await
        .unwrap_or_else(|panicked| Err(panicked.into()));
    let written = written.map_err(Failure::uncommitted)?;
    commit(&mut session.pg, written.last_sequences)
        .instrument(spans::statement(ADVANCE_SPIRITS))
        .await?;
    let sessions = active_sessions(admitted(&written.outcomes).map(|(event, _)| event));
    session.activity.remember(
        &sessions,
        activity_of(written.spirits.iter().map(|row| (row.id, row.activity))),
    );
    Ok(written.outcomes)
}

/// The result of a flush before its commit.
struct Written {
    outcomes: Vec<Outcome>,
    last_sequences: LastSequences,
    spirits: Vec<SpiritRow>,
}

/// Locks the spirits, decides the jobs, inserts the admitted events and records their sessions.
async fn decide_and_insert(
    session: &mut FlushSession,
    jobs: &[Job],
    lock: Lock,
) -> Result<Written, StoreError> {
    let FlushSession {
        pg: session,
        activity,
    } = session;
    let ids = spirit_ids(jobs);
    let opened = open(session, &ids, lock)
        .instrument(spans::statement(LOCK_SPIRITS))
        .await?;
    let now = opened.now();
    let locked_out = opened.locked_out();
    let blocker = |job: &Job| {
        let mut spirit_ids = job.items.iter().map(|item| item.spirit_id);
        spirit_ids.find(|id| locked_out.contains(id))
    };
    let decidable_items = jobs
        .iter()
        .filter(|job| locked_out.is_empty() || blocker(job).is_none())
        .flat_map(|job| &job.items);

    let mut state = FlushState {
        dedupe_keys: read_dedupe_keys(session, decidable_items.clone()).await?,
        sessions: read_session_last_sequences(session, decidable_items).await?,
        spirits: opened.spirits.iter().map(SpiritRow::state).collect(),
    };
    let outcomes: Vec<Outcome> = jobs
        .iter()
        .map(|job| match blocker(job) {
            Some(spirit_id) => Outcome::Locked(spirit_id),
            None => Outcome::Decided(Decision {
                verdict: state.admit(&job.items, job.mode),
                now,
            }),
        })
        .collect();
    let last_sequences = insert_admitted(session, &outcomes).await?;
    let sessions = active_sessions(admitted(&outcomes).map(|(event, _)| event));
    let unknown = activity.unknown(
        &sessions,
        activity_of(opened.spirits.iter().map(|row| (row.id, row.activity))),
    );
    activate_sessions(session, &unknown).await?;
    Ok(Written {
        outcomes,
        last_sequences,
        spirits: opened.spirits,
    })
}

/// Returns the admitted events, each with its sequence.
fn admitted(outcomes: &[Outcome]) -> impl Iterator<Item = (&NewEvent, i64)> {
    outcomes
        .iter()
        .flat_map(Outcome::admitted)
        .map(|(event, sequence)| (event.as_ref(), sequence))
}

/// Returns the spirits of the jobs, each once, sorted: spirits are locked in this order.
fn spirit_ids(jobs: &[Job]) -> Vec<Uuid> {
    let mut ids: Vec<Uuid> = jobs
        .iter()
        .flat_map(|job| &job.items)
        .map(|item| item.spirit_id.0)
        .collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// The results of the first round trip, which begins, locks and reads.
#[derive(Default)]
struct Opened {
    /// The spirits that this transaction has locked.
    locked: HashSet<SpiritId>,
    /// The spirits that exist. They are read by a statement after the one that locks, with a new snapshot, so
    /// the rows of the spirits that this transaction has locked are final.
    spirits: Vec<SpiritRow>,
}

impl Opened {
    /// Returns the time of the transaction.
    fn now(&self) -> DateTime<Utc> {
        self.spirits.first().map_or_else(Utc::now, |row| row.now)
    }

    /// Returns the spirits that another transaction has locked.
    fn locked_out(&self) -> HashSet<SpiritId> {
        self.spirits
            .iter()
            .map(|row| SpiritId(row.id))
            .filter(|id| !self.locked.contains(id))
            .collect()
    }
}

#[derive(FromRow)]
struct SpiritRow {
    id: Uuid,
    is_deleted: bool,
    last_sequence: i64,
    now: DateTime<Utc>,
    #[sqlx(flatten)]
    activity: ActivityRow,
}

impl SpiritRow {
    fn state(&self) -> (SpiritId, SpiritState) {
        let state = SpiritState {
            is_deleted: self.is_deleted,
            last_sequence: self.last_sequence,
        };
        (SpiritId(self.id), state)
    }
}

/// Begins the transaction, locks the spirits and reads them.
async fn open(session: &mut PgSession, ids: &[Uuid], lock: Lock) -> Result<Opened, StoreError> {
    let mut sql = session.begin_sql();
    if let Lock::WaitFor(spirit_id) = lock {
        push(&mut sql, &WAIT_FOR_SPIRIT.replace(IDS, &uuids(&[spirit_id.0])));
    }
    let ids = uuids(ids);
    push(&mut sql, &LOCK_SPIRITS.replace(IDS, &ids));
    push(&mut sql, &READ_SPIRITS.replace(IDS, &ids));

    let mut opened = Opened::default();
    let mut results = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_many(session.connection());
    while let Some(result) = results.try_next().await? {
        let Either::Right(row) = result else { continue };
        if row.len() == 1 {
            opened.locked.insert(SpiritId(row.try_get(0)?));
        } else {
            opened.spirits.push(SpiritRow::from_row(&row)?);
        }
    }
    Ok(opened)
}

/// Inserts the admitted events. Returns the new `last_sequence` of each of their spirits.
async fn insert_admitted(session: &mut PgSession, outcomes: &[Outcome]) -> Result<LastSequences, StoreError> {
    let admitted: Vec<(&NewEvent, i64)> = admitted(outcomes).collect();
    if admitted.is_empty() {
        return Ok(Vec::new());
    }
    let mut last_sequences: HashMap<Uuid, i64> = HashMap::new();
    for (event, sequence) in &admitted {
        let last_sequence = last_sequences.entry(event.spirit_id.0).or_default();
        *last_sequence = (*last_sequence).max(*sequence);
    }
    if admitted.len() >= COPY_EVENTS_MIN {
        copy_events(session, &admitted).await?;
    } else {
        let spirit_ids: Vec<Uuid> = last_sequences.keys().copied().collect();
        insert(session, &spirit_ids, &admitted).await?;
    }
    Ok(last_sequences.into_iter().collect())
}

async fn insert(
    session: &mut PgSession,
    spirit_ids: &[Uuid],
    admitted: &[(&NewEvent, i64)],
) -> Result<(), StoreError> {
    let mut arguments = PgArguments::default();
    arguments
        .add(spirit_ids)
        .and_then(|()| add_events(&mut arguments, admitted))
        .map_err(|error| StoreError::Bug(error.to_string()))?;
    sqlx::query_with(INSERT_EVENTS, arguments)
        .persistent(session.keeps_prepared_statements())
        .execute(session.connection())
        .instrument(spans::statement(INSERT_EVENTS))
        .await?;
    Ok(())
}

/// Stores the new last sequences of the spirits and commits.
async fn commit(session: &mut PgSession, last_sequences: LastSequences) -> Result<(), Failure> {
    let mut sql = String::new();
    if !last_sequences.is_empty() {
        let (ids, sequences): (Vec<Uuid>, Vec<i64>) = last_sequences.into_iter().unzip();
        let advance = ADVANCE_SPIRITS
            .replace(IDS, &uuids(&ids))
            .replace(NUMBERS, &bigints(&sequences));
        push(&mut sql, &advance);
    }
    push(&mut sql, "commit");
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(session.connection())
        .await
        .map_err(Failure::from_commit)?;
    Ok(())
}
