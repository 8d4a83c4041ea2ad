//! Reads the change history of events.

use const_format::formatcp;
use sqlx::postgres::PgRow;
use sqlx::types::chrono::{DateTime, Utc};
use sqlx::{FromRow, Row as _};
use uuid::Uuid;

use super::Reader;
use super::get_event::named_spirit;
use crate::domain::access::SpiritScope;
use crate::domain::change::{ChangeKind, ChangePosition, EventChange, FormerValues};
use crate::domain::ids::{EventId, SpiritId};
use crate::domain::limits::PAGE_BYTES;
use crate::domain::meta::Meta;
use crate::store::pg::error::StoreError;

/// A request for a page of the changes of an event, newest first.
#[derive(Clone, Debug)]
pub struct ChangeQuery {
    pub event_id: EventId,
    /// The spirits that the event may belong to.
    pub scope: SpiritScope,
    pub after: Option<ChangePosition>,
    /// Maximum number of changes in the page.
    pub size: usize,
}

/// A page of changes.
#[derive(Debug, Default)]
pub struct ChangePage {
    pub changes: Vec<EventChange>,
    /// Whether more changes follow.
    pub more: bool,
}

/// The columns of the table that a [`ChangeRow`] is read from.
pub(in crate::store) const STORED_COLUMNS: &str = "spirit_id, change, kind, event_id, sequence, event_ids, \
     sequences, fields, previous, previous_bytes, revision, changed_at, changed_by";

/// The columns of a [`ChangeRow`], selected from [`STORED_COLUMNS`] and [`FORMER_VALUES`].
pub(in crate::store) const CHANGE_COLUMNS: &str = "change, spirit_id, kind, \
     coalesce(event_ids, array[event_id]) as event_ids, coalesce(sequences, array[sequence]) as sequences, fields, \
     previous is not null as has_previous, former.meta_summary, former.importance_score, \
     former.meta::text as meta, former.role, former.author, former.is_deleted, former.deleted_at, revision, \
     changed_at, changed_by";

/// The names of [`CHANGE_COLUMNS`].
pub(in crate::store) const CHANGE_COLUMN_NAMES: &str = "change, spirit_id, kind, event_ids, sequences, fields, \
     has_previous, meta_summary, importance_score, meta, role, author, is_deleted, deleted_at, revision, \
     changed_at, changed_by";

/// The former values in `previous`, to be joined laterally.
pub(in crate::store) const FORMER_VALUES: &str = "jsonb_to_record(coalesce(previous, '{}')) as former (
         meta_summary text, importance_score double precision, meta jsonb, role text, author text,
         is_deleted boolean, deleted_at timestamptz
     )";

/// The approximate bytes of a change in a reply, without reading long values. A step of a bulk change is counted with
/// its maximum of events.
pub(in crate::store) const CHANGE_BYTES: &str =
    "case when event_ids is null then 256 + coalesce(previous_bytes, 0) else 48000 end";

/// A page of an event's changes before position (`$4`, `$5`). Changes of the event alone and bulk changes are in an
/// index each; `offset 0` keeps PostgreSQL from scanning the changes of all events in the order of the page. As in the
/// statement of GetEvent, the condition on `$2` selects partitions, and is a filter in a generic plan. The page ends with
/// the change that passes the byte limit of a page.
pub(in crate::store) const LIST: &str = formatcp!(
    "select {CHANGE_COLUMNS}, found
     from (
         select
             {STORED_COLUMNS}, count(*) over () as found,
             sum(bytes) over (order by spirit_id desc, change desc rows unbounded preceding) - bytes as bytes_before
         from (
             select {STORED_COLUMNS}, {CHANGE_BYTES} as bytes
             from (
                 (
                     select {STORED_COLUMNS}
                     from changes
                     where event_id = $1
                     and (event_id, spirit_id, change) < ($1, $4, $5::bigint)
                     and ($2::uuid is null or spirit_id = $2)
                     and coalesce($3::uuid[] is null or spirit_id = any($3), false)
                     order by event_id desc, spirit_id desc, change desc
                     limit (select $6::bigint)
                 )
                 union all
                 (
                     select {STORED_COLUMNS}
                     from (
                         select {STORED_COLUMNS}
                         from changes
                         where event_ids @> array[$1::uuid]
                         and event_ids is not null
                         and ($2::uuid is null or spirit_id = $2)
                         offset 0
                     ) as steps
                     where (spirit_id, change) < ($4, $5)
                     and coalesce($3::uuid[] is null or spirit_id = any($3), false)
                     order by spirit_id desc, change desc
                     limit (select $6::bigint)
                 )
             ) as found
             order by spirit_id desc, change desc
             limit (select $6::bigint)
         ) as sized
     ) as page
     cross join lateral {FORMER_VALUES}
     where bytes_before <= {PAGE_BYTES}
     order by spirit_id desc, change desc"
);

/// Find the spirit of an event by its changes, on a distributed database: by those of the event alone, and by bulk changes.
pub(in crate::store) const SPIRIT_OF_EVENT: [&str; 2] = [
    "select spirit_id
     from changes
     where event_id = $1
     limit 1",
    "select spirit_id
     from changes
     where event_ids @> array[$1::uuid]
     and event_ids is not null
     limit 1",
];

impl Reader {
    /// Returns a page of the changes of an event. An unknown event has no changes.
    pub async fn list_event_changes(&mut self, query: ChangeQuery) -> Result<ChangePage, StoreError> {
        let ChangeQuery {
            event_id,
            scope,
            after,
            size,
        } = query;
        let after = after.unwrap_or(ChangePosition {
            spirit_id: SpiritId(Uuid::max()),
            change: i64::MAX,
        });
        // All shards are asked for the spirit only, since a page over several shards cannot be planned.
        let named = match named_spirit(&scope) {
            None if self.primary.is_sharded() => match self.spirit_of_changes(event_id).await? {
                Some(spirit_id) => Some(spirit_id),
                None => return Ok(ChangePage::default()),
            },
            named => named,
        };
        let spirit_ids = scope.spirit_ids();
        let spirit_ids: Option<Vec<Uuid>> = spirit_ids.map(|ids| ids.iter().map(|id| id.0).collect());
        let statement = sqlx::query_as::<_, ListedRow>(LIST)
            .bind(event_id.0)
            .bind(named)
            .bind(spirit_ids)
            .bind(after.spirit_id.0)
            .bind(after.change)
            .bind(i64::try_from(size).unwrap_or(i64::MAX).saturating_add(1));
        let rows = self.all(statement).await?;
        let found = rows.first().map_or(0, |row| row.found);
        let rows = rows.into_iter().take(size);
        let changes: Vec<EventChange> = rows.map(|row| row.change.0).collect();
        Ok(ChangePage {
            more: usize::try_from(found).unwrap_or(usize::MAX) > changes.len(),
            changes,
        })
    }

    /// Returns the spirit of an event that was changed.
    async fn spirit_of_changes(&mut self, event_id: EventId) -> Result<Option<Uuid>, StoreError> {
        for statement in SPIRIT_OF_EVENT {
            let found = sqlx::query_as::<_, (Uuid,)>(statement).bind(event_id.0);
            if let Some((spirit_id,)) = self.all(found).await?.pop() {
                return Ok(Some(spirit_id));
            }
        }
        Ok(None)
    }
}

/// A change of a page, and the number of changes found, of which the page may contain fewer.
#[derive(FromRow)]
struct ListedRow {
    #[sqlx(flatten)]
    change: ChangeRow,
    found: i64,
}

/// A row of [`CHANGE_COLUMNS`].
pub(in crate::store) struct ChangeRow(pub(in crate::store) EventChange);

impl FromRow<'_, PgRow> for ChangeRow {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        let kind: &str = row.try_get("kind")?;
        let kind = ChangeKind::named(kind)
            .ok_or_else(|| sqlx::Error::Decode(format!("unknown kind of change {kind:?}").into()))?;
        let event_ids: Vec<Uuid> = row.try_get("event_ids")?;
        let has_previous: bool = row.try_get("has_previous")?;
        Ok(Self(EventChange {
            spirit_id: SpiritId(row.try_get("spirit_id")?),
            change: row.try_get("change")?,
            kind,
            event_ids: event_ids.into_iter().map(EventId).collect(),
            sequences: row.try_get("sequences")?,
            fields: row.try_get("fields")?,
            previous: has_previous.then(|| former_values(row)).transpose()?,
            revision: row.try_get("revision")?,
            changed_at: row.try_get::<DateTime<Utc>, _>("changed_at")?,
            changed_by: row.try_get("changed_by")?,
        }))
    }
}

fn former_values(row: &PgRow) -> sqlx::Result<FormerValues> {
    let is_deleted: Option<bool> = row.try_get("is_deleted")?;
    Ok(FormerValues {
        meta_summary: row.try_get("meta_summary")?,
        importance_score: row.try_get("importance_score")?,
        meta: row.try_get::<Option<String>, _>("meta")?.map(Meta::from_json),
        role: row.try_get("role")?,
        author: row.try_get("author")?,
        is_deleted: is_deleted.unwrap_or_default(),
        deleted_at: row.try_get("deleted_at")?,
    })
}
