//! Reads a page of new events: those after a sequence, in sequence order.

use const_format::formatcp;
use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row as _};
use uuid::Uuid;

use super::feed::{Feed, FeedId, LivePage};
use super::hub::Topic;
use super::shared_reads::SharedReads;
use super::{LiveStreams, PAGE_BYTES};
use crate::domain::event::{Event, View};
use crate::domain::filter::{QueryHash, Selection};
use crate::domain::ids::SpiritId;
use crate::domain::refusal::Refusal;
use crate::store::pg::error::StoreError;
use crate::store::pg::session::Statement;
use crate::store::read::event_pages::FILTERED as CONDITIONS;
use crate::store::read::list_events::{bind_selection, is_plain_by_sequence};
use crate::store::read::long_values::long_values;
use crate::store::read::page_rows::{
    BASIC_PAGE_COLUMNS, FULL_PAGE_COLUMNS, PAGE_COLUMN_NAMES, PageRow, PageRows,
};

/// The selection of events that a stream reads, and their view.
#[derive(Clone, Debug)]
pub(super) struct LiveQuery {
    pub(super) selection: Selection,
    pub(super) view: View,
    /// Hash of the selection; streams with the same hash share reads.
    hash: QueryHash,
}

/// Maximum number of events in a page.
pub(super) const PAGE_SIZE: usize = 500;
/// Maximum number of sequences that one statement scans, so that a filter that rarely matches costs many short
/// statements instead of a long one.
const SCAN_MAX: i64 = 20_000;
/// The same for a session, whose statement reads no other events.
const SESSION_SCAN_MAX: i64 = 1_000_000;

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
struct LiveRow {
    event: Option<PageRow>,
    last_sequence: i64,
    is_deleted: bool,
    bound: i64,
}

impl FromRow<'_, PgRow> for LiveRow {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        let has_event = row.try_get::<Option<Uuid>, _>(0)?.is_some();
        Ok(Self {
            event: has_event.then(|| PageRow::from_row(row)).transpose()?,
            last_sequence: row.try_get("spirit_last_sequence")?,
            is_deleted: row.try_get("spirit_is_deleted")?,
            bound: row.try_get("bound")?,
        })
    }
}

impl Feed for LiveQuery {
    type Row = Event;
    const TOPIC: Topic = Topic::Events;

    fn spirit_id(&self) -> SpiritId {
        self.selection.spirit_id
    }

    fn id(&self) -> FeedId {
        (self.hash, self.view)
    }

    fn number(row: &Event) -> i64 {
        row.sequence
    }

    /// Reads a page. Fails with `Refusal::SpiritNotFound` if the spirit does not exist; a soft-deleted spirit exists.
    ///
    /// Spirit and events are read in one snapshot, and sequence order is commit order within a spirit. So every
    /// event up to the spirit's `last_sequence` is visible, and no later commit can add one below it.
    async fn page(
        &self,
        streams: &LiveStreams,
        after: i64,
        size: usize,
    ) -> Result<LivePage<Event>, StoreError> {
        let in_filter = |error: StoreError| error.in_filter(&self.selection.filter);
        let statement = page_statement(self, after, size);
        let rows = if self.selection.filter.reads_meta() {
            streams.pool.all_heavy(statement).await
        } else {
            streams.pool.all(statement).await
        };
        let rows = rows.map_err(in_filter)?;
        let Some(&LiveRow {
            last_sequence,
            is_deleted,
            bound,
            ..
        }) = rows.first()
        else {
            return Err(Refusal::SpiritNotFound(self.selection.spirit_id).into());
        };
        let mut rows: Vec<PageRow> = rows.into_iter().filter_map(|row| row.event).collect();
        rows.sort_by_key(PageRow::sequence);
        let is_full = rows.len() >= size;
        let mut page = PageRows::fitting(rows, self.view, size, PAGE_BYTES);
        let incomplete = page.incomplete();
        if !incomplete.is_empty() {
            let statement = long_values(&self.selection, self.view, incomplete);
            page.complete(streams.pool.all(statement).await.map_err(in_filter)?);
        }
        let scanned = match page.end {
            Some(end) if is_full || page.is_cut => end.sequence,
            _ => bound.max(after),
        };
        let next_size = page.next_size(PAGE_SIZE);
        let rows = page.into_events();
        Ok(LivePage {
            committed_at: rows.first().map(|first| first.created_at),
            rows,
            scanned,
            is_last: scanned >= last_sequence,
            is_final: is_deleted,
            next_size,
        })
    }

    fn shared_reads(streams: &LiveStreams) -> &SharedReads<Event> {
        &streams.shared_events
    }
}

/// Returns the statement of the page of at most `size` events after this sequence.
fn page_statement(query: &LiveQuery, after: i64, size: usize) -> Statement<'_, LiveRow> {
    let Selection {
        spirit_id,
        session_id,
        filter: _,
    } = &query.selection;
    let index = usize::from(session_id.is_some()) * 2 + usize::from(query.view == View::Basic);
    let is_plain = is_plain_by_sequence(&query.selection);
    let scan_max = if session_id.is_some() {
        SESSION_SCAN_MAX
    } else {
        SCAN_MAX
    };
    let statement = if is_plain {
        sqlx::query_as(PLAIN[index]).bind(spirit_id.0)
    } else {
        bind_selection(sqlx::query_as(FILTERED[index]), &query.selection)
    };
    let statement = statement
        .bind(after.min(i64::MAX - scan_max)) // a cursor can hold any number, and the sum must not overflow
        .bind(i64::try_from(size).unwrap_or(i64::MAX))
        .bind(scan_max);
    match session_id {
        Some(session_id) if is_plain => statement.bind(session_id),
        _ => statement,
    }
}

/// A spirit without new events gives one row without an event. The rows are in order already, which SQL does not
/// guarantee of a join; a sort of rows that are in order costs the service less than PostgreSQL. The parameters are those
/// of the start, the number of events and the number of sequences. The range of a session is written as in the pages of
/// lists in sequence order.
macro_rules! page {
    ($columns:expr, $session:expr, $conditions:expr, $parameters:expr) => {{
        const NUMBERS: [&str; 3] = $parameters;
        const SESSION: &str = $session;
        const RANGE: &str = if SESSION.is_empty() {
            formatcp!(
                "sequence > {after} and sequence <= (select bound from spirit)",
                after = NUMBERS[0]
            )
        } else {
            formatcp!(
                "session_id is not null
                 and (session_id, sequence) > ({SESSION}, {after})
                 and (session_id, sequence) <= ({SESSION}, (select bound from spirit))",
                after = NUMBERS[0]
            )
        };
        const ORDER: &str = if SESSION.is_empty() {
            "sequence"
        } else {
            "session_id, sequence"
        };
        formatcp!(
            "with spirit as (
                 select
                     last_sequence as spirit_last_sequence,
                     deleted_at is not null as spirit_is_deleted,
                     least(last_sequence, {after}::bigint + {scan_max}::bigint) as bound
                 from spirits
                 where id = $1
             )
             select {PAGE_COLUMN_NAMES}, spirit_last_sequence, spirit_is_deleted, bound
             from spirit
             left join lateral (
                 select {columns}
                 from events
                 where spirit_id = $1
                 and {RANGE}
                 and coalesce({conditions}, false)
                 order by {ORDER}
                 limit (select {size}::bigint)
             ) as page on true",
            columns = $columns,
            conditions = $conditions,
            after = NUMBERS[0],
            size = NUMBERS[1],
            scan_max = NUMBERS[2],
        )
    }};
}

/// The statements of both views.
macro_rules! views {
    ($($conditions:expr),*) => {
        [
            page!(FULL_PAGE_COLUMNS, $($conditions),*),
            page!(BASIC_PAGE_COLUMNS, $($conditions),*),
        ]
    };
}

/// The statements of filtered pages: of a spirit and of a session, each in the FULL and the BASIC view.
pub(in crate::store) const FILTERED: [&str; 4] = {
    const PARAMETERS: [&str; 3] = ["$12", "$13", "$14"];
    const OTHERS: &str = formatcp!("occurred_at >= $6 and occurred_at < $7 and {CONDITIONS}");
    flat([
        views!("", formatcp!("$2::text is null and {OTHERS}"), PARAMETERS),
        views!("$2", OTHERS, PARAMETERS),
    ])
};

/// The statements of pages without a filter, in the same order. `$5` is the session.
pub(in crate::store) const PLAIN: [&str; 4] = {
    const PARAMETERS: [&str; 3] = ["$2", "$3", "$4"];
    flat([
        views!("", "not is_deleted", PARAMETERS),
        views!("$5", "not is_deleted", PARAMETERS),
    ])
};

const fn flat([[a, b], [c, d]]: [[&str; 2]; 2]) -> [&str; 4] {
    [a, b, c, d]
}
