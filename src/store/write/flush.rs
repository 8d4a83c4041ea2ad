//! One flush: a transaction that locks the spirits, decides every job and stores the winners.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::TryStreamExt as _;
use sqlx::postgres::PgArguments;
use sqlx::types::chrono::{DateTime, Utc};
use sqlx::{Arguments as _, AssertSqlSafe, Either, FromRow, Row as _};
use tracing::Instrument as _;
use uuid::Uuid;

use super::arguments::add_events;
use super::job::{Decided, Job};
use super::outcome::{Failure, Outcome};
use crate::domain::admission::{FlushState, Identity, KeyHolder, SpiritState};
use crate::domain::event::{NewEvent, OnDuplicate};
use crate::domain::ids::{EventId, SpiritId};
use crate::panics::caught;
use crate::store::pg::error::StoreError;
use crate::store::pg::session::PgSession;
use crate::store::pg::spans;

/// What to do about spirits that another transaction holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lock {
    /// Leave their jobs undecided.
    Skip,
    /// Wait for this one, up to the statement time limit, before anything else is locked: whoever
    /// waits holds nothing, so nobody else is locked_out up and no deadlock can arise.
    WaitFor(SpiritId),
}

/// Stands for the spirits' ids in the statements that open and close a transaction.
const IDS: &str = "$1::uuid[]";

pub(in crate::store) const LOCK_SPIRITS: &str = "
    select id
    from spirits
    where id = any($1::uuid[])
    order by id
    for no key update skip locked";

pub(in crate::store) const WAIT_FOR_SPIRIT: &str = "
    select id
    from spirits
    where id = any($1::uuid[])
    for no key update";

pub(in crate::store) const READ_SPIRITS: &str = "
    select id, deleted_at is not null as is_deleted, last_sequence, now() as now
    from spirits
    where id = any($1::uuid[])";

pub(in crate::store) const DEDUPE_KEYS: &str = include_str!("dedupe_keys.sql");

pub(in crate::store) const INSERT_EVENTS: &str = include_str!("insert_events.sql");

pub(in crate::store) const ADVANCE_SPIRITS: &str = "
    update spirits
    set last_sequence = moved.last_sequence
    from unnest($1::uuid[], $2::bigint[]) as moved (id, last_sequence)
    where spirits.id = any($1::uuid[])
    and spirits.id = moved.id";

/// Stands for the spirits' new sequences in [`ADVANCE_SPIRITS`].
const SEQUENCES: &str = "$2::bigint[]";

/// Decides the jobs in order and commits.
///
/// Four round trips, whatever the number of jobs: begin, lock and read the spirits; read the keys;
/// insert; advance and commit. The first and the last carry several statements, which only the
/// simple protocol can, and that takes no parameters: ids and sequences, which are not the callers'
/// text, stand in them as literals.
pub(super) async fn decide_and_commit(
    session: &mut PgSession,
    jobs: &[Job],
    lock: Lock,
) -> Result<Vec<Outcome>, Failure> {
    // What panics before the commit is like an error of the data: it is one job's, and the others run apart.
    let written = caught(write(session, jobs, lock))
        .await
        .unwrap_or_else(|panicked| Err(panicked.into()));
    let (outcomes, advanced) = written.map_err(Failure::uncommitted)?;
    commit(session, advanced)
        .instrument(spans::statement(ADVANCE_SPIRITS))
        .await?;
    Ok(outcomes)
}

/// Everything before the commit; also gives the new `last_sequence` of each spirit that gained events.
async fn write(
    session: &mut PgSession,
    jobs: &[Job],
    lock: Lock,
) -> Result<(Vec<Outcome>, Advanced), StoreError> {
    let ids = spirit_ids(jobs);
    let opened = open(session, &ids, lock);
    let Opened { locked, spirits } = opened.instrument(spans::statement(LOCK_SPIRITS)).await?;
    let now = spirits.first().map_or_else(Utc::now, |row| row.now);
    let locked_out: HashSet<SpiritId> = spirits
        .iter()
        .map(|row| SpiritId(row.id))
        .filter(|id| !locked.contains(id))
        .collect();
    let holder = |job: &Job| {
        job.items
            .iter()
            .map(|item| item.spirit_id)
            .find(|id| locked_out.contains(id))
    };
    let free = jobs
        .iter()
        .filter(|job| locked_out.is_empty() || holder(job).is_none())
        .flat_map(|job| &job.items);

    let mut world = FlushState {
        keys: read_keys(session, free).await?,
        spirits: spirits.iter().map(SpiritRow::state).collect(),
    };
    let outcomes: Vec<Outcome> = jobs
        .iter()
        .map(|job| match holder(job) {
            Some(spirit_id) => Outcome::Locked(spirit_id),
            None => Outcome::Decided(Decided {
                verdict: world.admit(&job.items, job.mode),
                now,
            }),
        })
        .collect();
    let advanced = insert_admitted(session, &outcomes).await?;
    Ok((outcomes, advanced))
}

/// What the first round trip says.
#[derive(Default)]
struct Opened {
    /// The spirits that this transaction has locked.
    locked: HashSet<SpiritId>,
    /// The spirits that exist, read by a statement after the locks: a new snapshot, so of those that
    /// are locked it is final.
    spirits: Vec<SpiritRow>,
}

async fn open(session: &mut PgSession, ids: &[Uuid], lock: Lock) -> Result<Opened, StoreError> {
    let mut sql = session.opening();
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

/// New `last_sequence` by spirit.
type Advanced = Vec<(Uuid, i64)>;

async fn commit(session: &mut PgSession, advanced: Advanced) -> Result<(), Failure> {
    let mut sql = String::new();
    if !advanced.is_empty() {
        let (ids, sequences): (Vec<Uuid>, Vec<i64>) = advanced.into_iter().unzip();
        let advance = ADVANCE_SPIRITS
            .replace(IDS, &uuids(&ids))
            .replace(SEQUENCES, &bigints(&sequences));
        push(&mut sql, &advance);
    }
    push(&mut sql, "commit");
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(session.connection())
        .await
        .map_err(Failure::of_commit)?;
    Ok(())
}

fn push(sql: &mut String, statement: &str) {
    sql.push_str(statement);
    sql.push(';');
}

fn uuids(ids: &[Uuid]) -> String {
    array(ids, "uuid[]")
}

fn bigints(numbers: &[i64]) -> String {
    array(numbers, "bigint[]")
}

/// An array literal of values whose text needs no quoting.
fn array<T: std::fmt::Display>(values: impl IntoIterator<Item = T>, of: &str) -> String {
    let values: Vec<String> = values.into_iter().map(|value| value.to_string()).collect();
    format!("'{{{}}}'::{of}", values.join(","))
}

/// The spirits of the jobs, each once, in the order in which they are locked.
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

#[derive(FromRow)]
struct SpiritRow {
    id: Uuid,
    is_deleted: bool,
    last_sequence: i64,
    now: DateTime<Utc>,
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

#[derive(FromRow)]
struct DedupeKeyRow {
    spirit_id: Uuid,
    dedupe_key: String,
    id: Uuid,
    sequence: i64,
    event_type: String,
    session_id: Option<String>,
    source_uri: Option<String>,
    occurred_at: DateTime<Utc>,
    content_sha256: Option<Vec<u8>>,
}

impl From<DedupeKeyRow> for ((SpiritId, String), KeyHolder) {
    fn from(row: DedupeKeyRow) -> Self {
        let hash = row.content_sha256.and_then(|hash| hash.try_into().ok());
        let holder = KeyHolder::Stored {
            id: EventId(row.id),
            sequence: row.sequence,
            identity: Identity {
                event_type: row.event_type,
                content_sha256: hash.unwrap_or_default(),
                session_id: row.session_id,
                source_uri: row.source_uri,
                occurred_at: row.occurred_at,
            },
        };
        ((SpiritId(row.spirit_id), row.dedupe_key), holder)
    }
}

/// Who has the items' keys. Contents are hashed only where an item asks for a comparison.
async fn read_keys<'j>(
    session: &mut PgSession,
    items: impl Iterator<Item = &'j Arc<NewEvent>>,
) -> Result<HashMap<(SpiritId, String), KeyHolder>, StoreError> {
    let mut compared: HashMap<(Uuid, &str), bool> = HashMap::new();
    for item in items {
        if let Some(key) = &item.dedupe_key {
            *compared.entry((item.spirit_id.0, key)).or_default() |=
                item.on_duplicate == OnDuplicate::ReturnExisting;
        }
    }
    if compared.is_empty() {
        return Ok(HashMap::new());
    }
    let (keys, compare): (Vec<_>, Vec<bool>) = compared.into_iter().unzip();
    let (spirit_ids, keys): (Vec<Uuid>, Vec<&str>) = keys.into_iter().unzip();
    let rows: Vec<DedupeKeyRow> = sqlx::query_as(DEDUPE_KEYS)
        .bind(spirit_ids)
        .bind(keys)
        .bind(compare)
        .persistent(session.names_statements())
        .fetch_all(session.connection())
        .instrument(spans::statement(DEDUPE_KEYS))
        .await?;
    Ok(rows.into_iter().map(Into::into).collect())
}

/// Inserts what was admitted; returns how far that moves its spirits.
async fn insert_admitted(session: &mut PgSession, outcomes: &[Outcome]) -> Result<Advanced, StoreError> {
    let admitted: Vec<(&NewEvent, i64)> = outcomes
        .iter()
        .flat_map(Outcome::admitted)
        .map(|(event, sequence)| (event.as_ref(), sequence))
        .collect();
    if admitted.is_empty() {
        return Ok(Vec::new());
    }
    let mut last_sequences: HashMap<Uuid, i64> = HashMap::new();
    for (event, sequence) in &admitted {
        let last = last_sequences.entry(event.spirit_id.0).or_default();
        *last = (*last).max(*sequence);
    }
    let spirit_ids: Vec<Uuid> = last_sequences.keys().copied().collect();
    insert(session, &spirit_ids, &admitted).await?;
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
        .persistent(session.names_statements())
        .execute(session.connection())
        .instrument(spans::statement(INSERT_EVENTS))
        .await?;
    Ok(())
}
