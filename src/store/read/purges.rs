//! Lists purges.

use const_format::formatcp;
use sqlx::postgres::PgRow;
use sqlx::types::chrono::{DateTime, Utc};
use sqlx::{FromRow, Row as _};
use uuid::Uuid;

use super::Reader;
use super::get_event::named_spirit;
use crate::domain::access::SpiritScope;
use crate::domain::filter::start_of_year;
use crate::domain::ids::SpiritId;
use crate::domain::purge::{Purge, PurgePosition, PurgeSelection};
use crate::store::pg::error::StoreError;

/// A request for a page of purges, newest first.
#[derive(Clone, Debug)]
pub struct PurgeQuery {
    /// The spirits whose purges are listed.
    pub scope: SpiritScope,
    pub after: Option<PurgePosition>,
    /// Maximum number of purges in the page.
    pub size: usize,
}

/// A page of purges.
#[derive(Debug)]
pub struct PurgePage {
    pub purges: Vec<Purge>,
    /// Whether more purges follow.
    pub more: bool,
}

/// A page of purges before position (`$2`, `$3`).
macro_rules! page {
    ($of_spirits:expr, $limit:expr) => {
        formatcp!(
            "select
                 purge_id, spirit_id, selection, reason, requested_by, started_at, finished_at, purged_count,
                 lowest_sequence, highest_sequence
             from purges
             where {of_spirits}
             and (started_at, purge_id) < ($2, $3)
             order by started_at desc, purge_id desc
             limit {limit}",
            of_spirits = $of_spirits,
            limit = $limit
        )
    };
}

/// The purges of one spirit.
pub(in crate::store) const OF_SPIRIT: &str = page!("spirit_id = $1", "(select $4::bigint)");

/// The purges of listed spirits, or of all.
pub(in crate::store) const OF_SPIRITS: &str = page!(
    "coalesce($1::uuid[] is null or spirit_id = any($1), false)",
    "(select $4::bigint)"
);

/// [`OF_SPIRITS`] on a distributed database, which reads the first purges of each shard.
pub(in crate::store) const OF_SPIRITS_SHARDED: &str =
    page!("coalesce($1::uuid[] is null or spirit_id = any($1), false)", "$4");

struct PurgeRow(Purge);

impl FromRow<'_, PgRow> for PurgeRow {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        let selection: &str = row.try_get("selection")?;
        let selection = PurgeSelection::named(selection)
            .ok_or_else(|| sqlx::Error::Decode(format!("unknown selection {selection:?}").into()))?;
        Ok(Self(Purge {
            id: row.try_get("purge_id")?,
            spirit_id: SpiritId(row.try_get("spirit_id")?),
            selection,
            reason: row.try_get("reason")?,
            requested_by: row.try_get("requested_by")?,
            started_at: row.try_get::<DateTime<Utc>, _>("started_at")?,
            finished_at: row.try_get::<Option<DateTime<Utc>>, _>("finished_at")?,
            purged_count: row.try_get("purged_count")?,
            lowest_sequence: row.try_get("lowest_sequence")?,
            highest_sequence: row.try_get("highest_sequence")?,
        }))
    }
}

impl Reader {
    /// Returns a page of purges.
    pub async fn list_purges(&mut self, query: &PurgeQuery) -> Result<PurgePage, StoreError> {
        let after = query.after.unwrap_or_else(|| PurgePosition {
            started_at: start_of_year(10_000),
            id: Uuid::max(),
        });
        let statement = if let Some(spirit_id) = named_spirit(&query.scope) {
            sqlx::query_as::<_, PurgeRow>(OF_SPIRIT).bind(spirit_id)
        } else {
            let listed = query.scope.spirit_ids();
            let listed = listed.map(|ids| ids.iter().map(|id| id.0).collect::<Vec<_>>());
            let statement = if self.primary.is_sharded() {
                OF_SPIRITS_SHARDED
            } else {
                OF_SPIRITS
            };
            sqlx::query_as(statement).bind(listed)
        };
        let statement = statement
            .bind(after.started_at)
            .bind(after.id)
            .bind(i64::try_from(query.size).unwrap_or(i64::MAX).saturating_add(1));
        let rows = self.all(statement).await?;
        Ok(PurgePage {
            more: rows.len() > query.size,
            purges: rows.into_iter().take(query.size).map(|row| row.0).collect(),
        })
    }
}
