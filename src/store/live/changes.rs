//! Watches of changes: reads a page of the changes of a spirit above a change number.

use const_format::formatcp;
use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row as _};

use super::feed::{Feed, FeedId, LivePage};
use super::hub::Topic;
use super::page_sender::Pages;
use super::shared_reads::SharedReads;
use super::watch::{WatchStart, check_start};
use super::{LiveStreams, PAGE_BYTES};
use crate::domain::change::EventChange;
use crate::domain::event::View;
use crate::domain::filter::QueryHash;
use crate::domain::ids::SpiritId;
use crate::domain::refusal::Refusal;
use crate::store::pg::error::StoreError;
use crate::store::read::changes::{
    CHANGE_BYTES, CHANGE_COLUMN_NAMES, CHANGE_COLUMNS, ChangeRow, FORMER_VALUES, STORED_COLUMNS,
};

/// A request to watch the changes of a spirit.
#[derive(Clone, Copy, Debug)]
pub struct ChangeWatch {
    pub spirit_id: SpiritId,
    pub start: WatchStart,
}

/// Maximum number of changes in a page.
const PAGE_SIZE: usize = 500;

/// Reads the newest change number of a spirit, and the oldest change that is stored.
pub(in crate::store) const CHANGE_BOUNDS: &str = "
    select
        last_change,
        (
            select change
            from changes
            where spirit_id = $1
            order by spirit_id, change
            limit 1
        ) as oldest_change
    from spirits
    where id = $1";

/// A page of changes above number `$2`. A spirit without such changes gives one row without a change. The page ends with
/// the change that passes the byte limit of a page.
pub(in crate::store) const CHANGES: &str = formatcp!(
    "with spirit as (
         select last_change as spirit_last_change
         from spirits
         where id = $1
     )
     select {CHANGE_COLUMN_NAMES}, spirit_last_change
     from spirit
     left join lateral (
         select {CHANGE_COLUMNS}
         from (
             select
                 {STORED_COLUMNS},
                 sum(bytes) over (order by change rows unbounded preceding) - bytes as bytes_before
             from (
                 select {STORED_COLUMNS}, {CHANGE_BYTES} as bytes
                 from changes
                 where spirit_id = $1
                 and change > $2
                 order by spirit_id, change
                 limit (select $3::bigint)
             ) as sized
         ) as page
         cross join lateral {FORMER_VALUES}
         where bytes_before <= {PAGE_BYTES}
     ) as page on true"
);

/// The changes of a spirit.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChangeFeed {
    spirit_id: SpiritId,
}

struct LiveChangeRow {
    change: Option<EventChange>,
    last_change: i64,
}

impl FromRow<'_, PgRow> for LiveChangeRow {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        let has_change = row.try_get::<Option<i64>, _>(0)?.is_some();
        let change = has_change.then(|| ChangeRow::from_row(row)).transpose()?;
        Ok(Self {
            change: change.map(|ChangeRow(change)| change),
            last_change: row.try_get("spirit_last_change")?,
        })
    }
}

#[derive(FromRow)]
struct BoundsRow {
    last_change: i64,
    oldest_change: Option<i64>,
}

impl LiveStreams {
    /// Starts a watch of changes. Returns the change after which it starts, and its pages. Dropping the pages stops it.
    ///
    /// # Errors
    /// `Refusal::SpiritNotFound` for an unknown spirit; `Refusal::Invalid` for a start beyond `last_change`;
    /// `Refusal::ChangesGone` for a start before changes that are no longer stored.
    pub async fn watch_changes(&self, watch: ChangeWatch) -> Result<(i64, Pages<EventChange>), StoreError> {
        let ChangeWatch { spirit_id, start } = watch;
        let live = self.tail(ChangeFeed { spirit_id });
        let statement = sqlx::query_as::<_, BoundsRow>(CHANGE_BOUNDS).bind(spirit_id.0);
        let bounds = self.pool.optional(statement).await?;
        let bounds = bounds.ok_or(Refusal::SpiritNotFound(spirit_id))?;
        let oldest = bounds.oldest_change.unwrap_or(bounds.last_change + 1);
        let after = match start {
            WatchStart::Now => bounds.last_change,
            WatchStart::Beginning => oldest - 1,
            WatchStart::After(change) => {
                check_start("after_change", change, "last_change", bounds.last_change)?;
                check_stored(change, oldest)?;
                change
            }
        };
        Ok((after, self.watch_from(live, after)))
    }
}

impl Feed for ChangeFeed {
    type Row = EventChange;
    const TOPIC: Topic = Topic::Changes;

    fn spirit_id(&self) -> SpiritId {
        self.spirit_id
    }

    fn id(&self) -> FeedId {
        let hash = QueryHash::of("live changes", &[Some(self.spirit_id.0.as_bytes())]);
        (hash, View::Full)
    }

    fn number(row: &EventChange) -> i64 {
        row.change
    }

    /// Reads a page. Fails with `Refusal::SpiritNotFound` if the spirit does not exist, and with
    /// `Refusal::ChangesGone` if the next change is no longer stored.
    ///
    /// Spirit and changes are read in one snapshot, and change numbers are drawn in commit order without gaps, so the
    /// next change is stored unless it was removed.
    async fn page(
        &self,
        streams: &LiveStreams,
        after: i64,
        size: usize,
    ) -> Result<LivePage<EventChange>, StoreError> {
        let statement = sqlx::query_as::<_, LiveChangeRow>(CHANGES)
            .bind(self.spirit_id.0)
            .bind(after)
            .bind(i64::try_from(size).unwrap_or(i64::MAX));
        let rows = streams.pool.all(statement).await?;
        let last_change = rows.first().map(|row| row.last_change);
        let last_change = last_change.ok_or(Refusal::SpiritNotFound(self.spirit_id))?;
        let mut rows: Vec<EventChange> = rows.into_iter().filter_map(|row| row.change).collect();
        rows.sort_by_key(|row| row.change);
        if last_change > after {
            check_stored(after, rows.first().map_or(last_change + 1, |first| first.change))?;
        }
        let successive = (after + 1..).zip(&rows);
        rows.truncate(
            successive
                .take_while(|(number, row)| *number == row.change)
                .count(),
        );
        let scanned = rows.last().map_or(after, |last| last.change);
        Ok(LivePage {
            scanned,
            is_last: scanned >= last_change,
            is_final: false,
            committed_at: None,
            next_size: PAGE_SIZE,
            rows,
        })
    }

    fn shared_reads(streams: &LiveStreams) -> &SharedReads<EventChange> {
        &streams.shared_changes
    }
}

/// Fails if changes after a number are no longer stored, given the oldest one that is.
fn check_stored(after: i64, oldest: i64) -> Result<(), Refusal> {
    if after + 1 < oldest {
        return Err(Refusal::ChangesGone { oldest });
    }
    Ok(())
}
