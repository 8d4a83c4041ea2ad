//! A full flush: a transaction that locks the spirits, decides every job and inserts the admitted events.

use std::collections::{HashMap, HashSet};

use const_format::str_replace;
use futures_util::TryStreamExt as _;
use sqlx::postgres::PgArguments;
use sqlx::types::chrono::{DateTime, Utc};
use sqlx::{Arguments as _, AssertSqlSafe, Either, FromRow, Row as _};
use tracing::Instrument as _;
use uuid::Uuid;

use super::arguments::add_events;
use super::copy_events::{COPY_EVENTS_MIN, copy_events};
use super::dedupe_keys::read_dedupe_keys;
use super::division::Division;
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

/// Waits for the locks of the spirits, one after another, and returns those that exist.
pub(in crate::store) const WAIT_FOR_SPIRITS: &str = str_replace!(LOCK_SPIRITS, " skip locked", "");

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

const INSERT_TEMPLATE: &str = include_str!("insert_events.sql");
const TIME_COLUMNS: &str = "{time_columns}";
const TIMES: &str = "{times}";

pub(in crate::store) const INSERT_EVENTS: &str =
    str_replace!(str_replace!(INSERT_TEMPLATE, TIME_COLUMNS, ""), TIMES, "");

/// [`INSERT_EVENTS`] on a distributed database. The spirits, `$1`, are of one shard, and `$16` is the time of the events.
pub(in crate::store) const INSERT_EVENTS_SHARDED: &str = str_replace!(
    str_replace!(INSERT_TEMPLATE, TIME_COLUMNS, ", created_at, updated_at"),
    TIMES,
    ", $16, $16"
);

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
    /// Wait for the lock of each spirit, by shard and id. Nothing else waits for a spirit while it holds another, so no
    /// deadlock can arise. The transaction holds the locks that it has while it waits for the next one.
    WaitForAll,
}

/// The new `last_sequence` of each spirit that gains events, divided by shard.
type LastSequences = Vec<Vec<(Uuid, i64)>>;

/// Decides the jobs in order and commits.
///
/// Takes at most four round trips for any number of jobs: begin, lock and read the spirits; read the dedupe keys;
/// insert; advance the spirits and commit. The first and the last send several statements at once, which only the
/// simple query protocol supports, without parameters. One more is needed for `COPY` if there are enough events, one if
/// an item expects the last sequence of its session, and one to record sessions. On a distributed database a flush of
/// several shards runs each statement once for each shard.
pub(super) async fn decide_and_commit(
    session: &mut FlushSession,
    jobs: &[Job],
    lock: Lock,
    division: &Division,
) -> Result<Vec<Outcome>, Failure> {
    // A panic before the commit is handled like a data error: the other jobs are stored without the one that
    // caused it.
    let written = caught(decide_and_insert(session, jobs, lock, division))
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
    division: &Division,
) -> Result<Written, StoreError> {
    let FlushSession {
        pg: session,
        activity,
    } = session;
    let ids = division.by_shard(spirit_ids(jobs), |id| SpiritId(*id));
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
        dedupe_keys: read_dedupe_keys(session, division, decidable_items.clone()).await?,
        sessions: read_session_last_sequences(session, division, decidable_items).await?,
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
    let last_sequences = insert_admitted(session, division, &outcomes, now).await?;
    let sessions = active_sessions(admitted(&outcomes).map(|(event, _)| event));
    let unknown = activity.unknown(
        &sessions,
        activity_of(opened.spirits.iter().map(|row| (row.id, row.activity))),
    );
    for sessions in division.by_shard(unknown, |((spirit_id, _), _)| *spirit_id) {
        activate_sessions(session, &sessions.into_iter().collect()).await?;
    }
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

/// Begins the transaction, locks the spirits, divided by shard, and reads them.
async fn open(session: &mut PgSession, shards: &[Vec<Uuid>], lock: Lock) -> Result<Opened, StoreError> {
    let mut sql = session.begin_sql();
    if let Lock::WaitFor(spirit_id) = lock {
        push(&mut sql, &WAIT_FOR_SPIRIT.replace(IDS, &uuids(&[spirit_id.0])));
    }
    let locking = match lock {
        Lock::Skip | Lock::WaitFor(_) => LOCK_SPIRITS,
        Lock::WaitForAll => WAIT_FOR_SPIRITS,
    };
    for statement in [locking, READ_SPIRITS] {
        for ids in shards {
            push(&mut sql, &statement.replace(IDS, &uuids(ids)));
        }
    }

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
async fn insert_admitted(
    session: &mut PgSession,
    division: &Division,
    outcomes: &[Outcome],
    now: DateTime<Utc>,
) -> Result<LastSequences, StoreError> {
    let admitted: Vec<(&NewEvent, i64)> = admitted(outcomes).collect();
    if admitted.is_empty() {
        return Ok(Vec::new());
    }
    let mut last_sequences: HashMap<Uuid, i64> = HashMap::new();
    for (event, sequence) in &admitted {
        let last_sequence = last_sequences.entry(event.spirit_id.0).or_default();
        *last_sequence = (*last_sequence).max(*sequence);
    }
    if admitted.len() >= COPY_EVENTS_MIN && session.may_copy() {
        copy_events(session, &admitted).await?;
    } else {
        for admitted in division.by_shard(admitted, |(event, _)| event.spirit_id) {
            insert(session, &admitted, now).await?;
        }
    }
    Ok(division.by_shard(last_sequences, |(id, _)| SpiritId(*id)))
}

async fn insert(
    session: &mut PgSession,
    admitted: &[(&NewEvent, i64)],
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let spirit_ids: HashSet<Uuid> = admitted.iter().map(|(event, _)| event.spirit_id.0).collect();
    let spirit_ids: Vec<Uuid> = spirit_ids.into_iter().collect();
    let mut arguments = PgArguments::default();
    let mut added = arguments.add(spirit_ids);
    added = added.and_then(|()| add_events(&mut arguments, admitted));
    let statement = if session.is_sharded() {
        added = added.and_then(|()| arguments.add(now));
        INSERT_EVENTS_SHARDED
    } else {
        INSERT_EVENTS
    };
    added.map_err(|error| StoreError::Bug(error.to_string()))?;
    sqlx::query_with(statement, arguments)
        .persistent(session.keeps_prepared_statements())
        .execute(session.connection())
        .instrument(spans::statement(statement))
        .await?;
    Ok(())
}

/// Stores the new last sequences of the spirits and commits.
async fn commit(session: &mut PgSession, last_sequences: LastSequences) -> Result<(), Failure> {
    let mut sql = String::new();
    for last_sequences in last_sequences {
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
