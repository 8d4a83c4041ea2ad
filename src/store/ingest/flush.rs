//! One flush: a transaction that locks the spirits, decides every job and stores the winners.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use sqlx::types::chrono::{DateTime, Utc};
use sqlx::{Connection as _, FromRow, PgConnection};
use uuid::Uuid;

use super::{Decided, Job};
use crate::domain::admission::{Admitted, Identity, KeyHolder, SpiritState, World};
use crate::domain::event::{NewEvent, OnDuplicate};
use crate::domain::ids::{EventId, SpiritId};
use crate::store::StoreError;

/// What to do about spirits that another transaction holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lock {
    /// Leave their jobs undecided.
    Skip,
    /// Wait for this one, up to the statement time limit, before anything else is locked: whoever
    /// waits holds nothing, so nobody else is held up and no deadlock can arise.
    WaitFor(SpiritId),
}

/// What became of a job.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Decided, and committed as decided.
    Decided(Decided),
    /// Untouched: another transaction holds this spirit.
    Held(SpiritId),
}

/// A flush that failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: StoreError,
    /// Whether it is certain that nothing was stored.
    pub(super) uncommitted: bool,
}

impl Failure {
    pub(super) fn uncommitted(error: StoreError) -> Self {
        Self {
            error,
            uncommitted: true,
        }
    }

    pub(super) fn unknown(error: StoreError) -> Self {
        Self {
            error,
            uncommitted: false,
        }
    }
}

const LOCK: &str = "
    select id
    from spirits
    where id = any($1)
    order by id
    for no key update skip locked";

const WAIT: &str = "
    select id
    from spirits
    where id = $1
    for no key update";

const SPIRITS: &str = "
    select id, deleted_at is not null as is_deleted, last_sequence, now() as now
    from spirits
    where id = any($1)";

const KEYS: &str = include_str!("../queries/dedupe_keys.sql");

const INSERT: &str = include_str!("../queries/insert_events.sql");

const ADVANCE: &str = "
    update spirits
    set last_sequence = moved.last_sequence
    from unnest($1::uuid[], $2::bigint[]) as moved (id, last_sequence)
    where spirits.id = any($1)
    and spirits.id = moved.id";

/// Decides the jobs in order and commits.
pub(super) async fn flush(
    connection: &mut PgConnection,
    jobs: &[Job],
    lock: Lock,
) -> Result<Vec<Outcome>, Failure> {
    let mut transaction = connection
        .begin()
        .await
        .map_err(|error| Failure::uncommitted(error.into()))?;
    let decided = write(&mut transaction, jobs, lock)
        .await
        .map_err(Failure::uncommitted)?;
    transaction
        .commit()
        .await
        .map_err(|error| Failure::unknown(error.into()))?;
    Ok(decided)
}

async fn write(connection: &mut PgConnection, jobs: &[Job], lock: Lock) -> Result<Vec<Outcome>, StoreError> {
    let spirit_ids = spirit_ids(jobs);
    let locked = lock_spirits(connection, &spirit_ids, lock).await?;
    // A new statement, so a new snapshot: under the locks what it sees is final.
    let spirits = read_spirits(connection, &spirit_ids).await?;
    let now = spirits.first().map_or_else(Utc::now, |row| row.now);
    let held: HashSet<SpiritId> = spirits
        .iter()
        .map(|row| SpiritId(row.id))
        .filter(|id| !locked.contains(id))
        .collect();
    let holder = |job: &Job| {
        job.items
            .iter()
            .map(|item| item.spirit_id)
            .find(|id| held.contains(id))
    };
    let free = jobs
        .iter()
        .filter(|job| holder(job).is_none())
        .flat_map(|job| &job.items);

    let mut world = World {
        keys: read_keys(connection, free).await?,
        spirits: spirits.iter().map(SpiritRow::state).collect(),
    };
    let outcomes: Vec<Outcome> = jobs
        .iter()
        .map(|job| match holder(job) {
            Some(spirit_id) => Outcome::Held(spirit_id),
            None => Outcome::Decided(Decided {
                verdict: world.admit(&job.items, job.mode),
                now,
            }),
        })
        .collect();
    store(connection, &outcomes).await?;
    Ok(outcomes)
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

async fn lock_spirits(
    connection: &mut PgConnection,
    ids: &[Uuid],
    lock: Lock,
) -> Result<HashSet<SpiritId>, StoreError> {
    if let Lock::WaitFor(spirit_id) = lock {
        sqlx::query(WAIT)
            .bind(spirit_id.0)
            .execute(&mut *connection)
            .await?;
    }
    let rows: Vec<(Uuid,)> = sqlx::query_as(LOCK).bind(ids).fetch_all(connection).await?;
    Ok(rows.into_iter().map(|(id,)| SpiritId(id)).collect())
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

async fn read_spirits(connection: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<SpiritRow>, StoreError> {
    Ok(sqlx::query_as(SPIRITS).bind(ids).fetch_all(connection).await?)
}

#[derive(FromRow)]
struct KeyRow {
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

impl From<KeyRow> for ((SpiritId, String), KeyHolder) {
    fn from(row: KeyRow) -> Self {
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
    connection: &mut PgConnection,
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
    let rows: Vec<KeyRow> = sqlx::query_as(KEYS)
        .bind(spirit_ids)
        .bind(keys)
        .bind(compare)
        .fetch_all(connection)
        .await?;
    Ok(rows.into_iter().map(Into::into).collect())
}

/// Inserts what was admitted and advances its spirits.
async fn store(connection: &mut PgConnection, outcomes: &[Outcome]) -> Result<(), StoreError> {
    let verdicts = outcomes.iter().filter_map(|outcome| match outcome {
        Outcome::Decided(decided) => decided.verdict.as_ref().ok(),
        Outcome::Held(_) => None,
    });
    let admitted: Vec<(&NewEvent, i64)> = verdicts
        .flatten()
        .filter_map(|result| match result {
            Ok(Admitted::New { event, sequence }) => Some((event.as_ref(), *sequence)),
            _ => None,
        })
        .collect();
    if admitted.is_empty() {
        return Ok(());
    }
    let mut last_sequences: HashMap<Uuid, i64> = HashMap::new();
    for (event, sequence) in &admitted {
        let last = last_sequences.entry(event.spirit_id.0).or_default();
        *last = (*last).max(*sequence);
    }
    let (spirit_ids, sequences): (Vec<Uuid>, Vec<i64>) = last_sequences.into_iter().unzip();
    insert(connection, &spirit_ids, &admitted).await?;
    sqlx::query(ADVANCE)
        .bind(spirit_ids)
        .bind(sequences)
        .execute(connection)
        .await?;
    Ok(())
}

async fn insert(
    connection: &mut PgConnection,
    spirit_ids: &[Uuid],
    admitted: &[(&NewEvent, i64)],
) -> Result<(), StoreError> {
    fn column<'a, T>(admitted: &[(&'a NewEvent, i64)], field: impl Fn(&'a NewEvent) -> T) -> Vec<T> {
        admitted.iter().map(|(event, _)| field(event)).collect()
    }
    sqlx::query(INSERT)
        .bind(spirit_ids)
        .bind(column(admitted, |event| event.id.0))
        .bind(column(admitted, |event| event.spirit_id.0))
        .bind(
            admitted
                .iter()
                .map(|(_, sequence)| *sequence)
                .collect::<Vec<i64>>(),
        )
        .bind(column(admitted, |event| event.event_type.as_str()))
        .bind(column(admitted, |event| event.meta_summary.as_deref()))
        .bind(column(admitted, |event| event.content.as_str()))
        .bind(column(admitted, |event| event.occurred_at))
        .bind(column(admitted, |event| event.session_id.as_deref()))
        .bind(column(admitted, |event| event.role.as_deref()))
        .bind(column(admitted, |event| event.author.as_deref()))
        .bind(column(admitted, |event| event.meta.as_json()))
        .bind(column(admitted, |event| event.source_uri.as_deref()))
        .bind(column(admitted, |event| event.dedupe_key.as_deref()))
        .bind(column(admitted, |event| event.importance_score))
        .execute(connection)
        .await?;
    Ok(())
}

/// See [`crate::store::statements`].
pub(in crate::store) fn statements() -> Vec<(&'static str, Arc<str>)> {
    vec![
        ("ingest/lock", LOCK.into()),
        ("ingest/wait", WAIT.into()),
        ("ingest/spirits", SPIRITS.into()),
        ("ingest/dedupe_keys", KEYS.into()),
        ("ingest/insert", INSERT.into()),
        ("ingest/advance", ADVANCE.into()),
    ]
}
