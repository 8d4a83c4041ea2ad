//! Reads a page of new events: those after a sequence, in sequence order.

use const_format::formatcp;
use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row as _};

use super::{LiveStreams, PAGE_BYTES};
use crate::domain::event::{Event, View};
use crate::domain::filter::{QueryHash, Selection};
use crate::domain::refusal::Refusal;
use crate::store::pg::error::StoreError;
use crate::store::pg::rows::{BASIC_COLUMNS, BASIC_LENGTH, EventRow, FULL_COLUMNS, FULL_LENGTH, NO_COLUMNS};
use crate::store::read::list_events::{FILTERED, bind_selection};

/// The selection of events that a stream reads, and their view.
#[derive(Clone, Debug)]
pub(super) struct LiveQuery {
    pub(super) selection: Selection,
    pub(super) view: View,
    /// Hash of the selection; streams with the same hash share reads.
    pub(super) hash: QueryHash,
}

/// A page of new events of a spirit.
#[derive(Debug)]
pub struct LivePage {
    /// Matching events in sequence order.
    pub events: Vec<Event>,
    /// Highest sequence that was examined for the page, whether or not its event matched the filter.
    pub scanned: i64,
    /// Whether the page reached the spirit's `last_sequence`.
    pub is_last: bool,
    /// Whether the spirit is soft-deleted, so that no new events follow the last page.
    pub is_deleted: bool,
}

/// Maximum number of events in a page.
const PAGE_SIZE: i64 = 500;
/// Maximum number of sequences that one statement scans, so that a filter that rarely matches costs many short
/// statements instead of a long one.
const SCAN_MAX: i64 = 20_000;

impl LiveQuery {
    pub(super) fn new(selection: Selection, view: View) -> Self {
        Self {
            hash: QueryHash::of_events("live", &selection, "sequence"),
            selection,
            view,
        }
    }
}

/// A row of a page. A spirit without new events gives one row without an event.
struct PageRow {
    event: Option<EventRow>,
    last_sequence: i64,
    is_deleted: bool,
    bound: i64,
    found: i64,
}

impl FromRow<'_, PgRow> for PageRow {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        let has_event = row.try_get::<Option<uuid::Uuid>, _>("id")?.is_some();
        Ok(Self {
            event: has_event.then(|| EventRow::from_row(row)).transpose()?,
            last_sequence: row.try_get("spirit_last_sequence")?,
            is_deleted: row.try_get("spirit_is_deleted")?,
            bound: row.try_get("bound")?,
            found: row.try_get("found")?,
        })
    }
}

impl LiveStreams {
    /// Reads a page of the events after this sequence. Fails with `Refusal::SpiritNotFound` if the spirit does
    /// not exist; a soft-deleted spirit exists.
    ///
    /// Spirit and events are read in one snapshot, and sequence order is commit order within a spirit. So every
    /// event up to the spirit's `last_sequence` is visible, and no later commit can add one below it.
    pub(super) async fn live_page(&self, query: &LiveQuery, after: i64) -> Result<LivePage, StoreError> {
        let statement = bind_selection(sqlx::query_as::<_, PageRow>(page_sql(query)), &query.selection)
            .bind(after.min(i64::MAX - SCAN_MAX)) // a cursor can hold any number, and the sum must not overflow
            .bind(PAGE_SIZE)
            .bind(i64::try_from(PAGE_BYTES).unwrap_or(i64::MAX))
            .bind(SCAN_MAX);
        let rows = self.pool.all(statement).await?;
        let Some(&PageRow {
            last_sequence,
            is_deleted,
            bound,
            found,
            ..
        }) = rows.first()
        else {
            return Err(Refusal::SpiritNotFound(query.selection.spirit_id).into());
        };
        let events: Vec<Event> = rows
            .into_iter()
            .filter_map(|row| Some(row.event?.into()))
            .collect();
        let is_whole = found < PAGE_SIZE && found == i64::try_from(events.len()).unwrap_or(i64::MAX);
        let scanned = match events.last() {
            Some(last) if !is_whole => last.sequence,
            _ => bound.max(after),
        };
        Ok(LivePage {
            events,
            scanned,
            is_last: scanned >= last_sequence,
            is_deleted,
        })
    }
}

/// Finds the row at which the byte limit is reached by reading lengths only, as a page of a list does. A spirit
/// without new events gives one row without an event.
macro_rules! page {
    ($session:expr, $columns:expr, $length:expr) => {
        formatcp!(
            "with spirit as (
                 select
                     last_sequence as spirit_last_sequence,
                     deleted_at is not null as spirit_is_deleted,
                     least(last_sequence, $10::bigint + $13::bigint) as bound
                 from spirits
                 where id = $1
             ),
             cut as (
                 select
                     count(*) as found,
                     count(*) filter (where total <= $12 or total = bytes) as fits
                 from (
                     select bytes, sum(bytes) over (order by sequence rows unbounded preceding) as total
                     from (
                         select sequence, {length} as bytes
                         {rows}
                         limit (select $11::bigint)
                     ) as lengths
                 ) as sums
             )
             select {BASIC_COLUMNS}, content, meta, spirit_last_sequence, spirit_is_deleted, bound,
                 (select found from cut) as found
             from spirit
             left join lateral (
                 select {BASIC_COLUMNS}, {columns}
                 {rows}
                 limit (select fits from cut)
             ) as page on true
             order by sequence",
            columns = $columns,
            length = $length,
            rows = formatcp!(
                "from events
                 where spirit_id = $1
                 and sequence > $10
                 and sequence <= (select bound from spirit)
                 and coalesce({session} and occurred_at >= $6 and occurred_at < $7 and {FILTERED}, false)
                 order by sequence",
                session = $session
            )
        )
    };
}

pub(in crate::store) const SPIRIT_FULL: &str = page!("$2::text is null", FULL_COLUMNS, FULL_LENGTH);
pub(in crate::store) const SPIRIT_BASIC: &str = page!("$2::text is null", NO_COLUMNS, BASIC_LENGTH);
pub(in crate::store) const SESSION_FULL: &str = page!("session_id = $2", FULL_COLUMNS, FULL_LENGTH);
pub(in crate::store) const SESSION_BASIC: &str = page!("session_id = $2", NO_COLUMNS, BASIC_LENGTH);

fn page_sql(query: &LiveQuery) -> &'static str {
    match (&query.selection.session_id, query.view) {
        (None, View::Full) => SPIRIT_FULL,
        (None, View::Basic) => SPIRIT_BASIC,
        (Some(_), View::Full) => SESSION_FULL,
        (Some(_), View::Basic) => SESSION_BASIC,
    }
}
