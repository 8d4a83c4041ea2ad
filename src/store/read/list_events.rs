//! Lists and counts events.
//!
//! A page is a keyset scan of an index. Each combination of index, direction and view has a statement of its
//! own, because it has a plan of its own; all other conditions are parameters.

use const_format::formatcp;
use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row as _};

use super::Reader;
use crate::domain::event::{Event, Order, Position, View};
use crate::domain::filter::{EventFilter, Selection, start_of_year};
use crate::domain::meta::Meta;
use crate::store::pg::error::StoreError;
use crate::store::pg::rows::{BASIC_COLUMNS, BASIC_LENGTH, EventRow, FULL_COLUMNS, FULL_LENGTH, NO_COLUMNS};
use crate::store::pg::session::Statement;

/// A request for a page of events.
#[derive(Clone, Debug)]
pub struct EventQuery {
    pub selection: Selection,
    pub order: Order,
    pub view: View,
    pub start: PageStart,
    /// Highest sequence that the page may contain.
    pub sequence_max: i64,
    /// Maximum number of events in the page.
    pub size: usize,
    /// Maximum bytes of the page, by the length of its texts; a page holds at least one event.
    pub bytes: usize,
}

/// The start of a page.
#[derive(Clone, Copy, Debug)]
pub enum PageStart {
    /// Starts after this number of events.
    Offset(i64),
    /// Starts after this position.
    After(Position),
}

/// A page of events.
#[derive(Debug)]
pub struct EventPage {
    pub events: Vec<Event>,
    /// Whether more events follow.
    pub more: bool,
}

struct PageRow {
    event: EventRow,
    /// Number of events that match, up to one more than the size of the page; the same in every row.
    found: i64,
}

impl FromRow<'_, PgRow> for PageRow {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            event: EventRow::from_row(row)?,
            found: row.try_get("found")?,
        })
    }
}

impl Reader {
    /// Returns a page of the selected events.
    pub async fn list_events(&mut self, query: &EventQuery) -> Result<EventPage, StoreError> {
        let (start, offset) = match query.start {
            PageStart::Offset(offset) => (beginning(query.order), offset),
            PageStart::After(position) => (position, 0),
        };
        let shape = PageShape::of(query);
        let limit = i64::try_from(query.size).unwrap_or(i64::MAX).saturating_add(1);
        let statement = bind_selection(
            sqlx::query_as::<_, PageRow>(PAGES[shape.index()]),
            &query.selection,
        )
        .bind(start.occurred_at)
        .bind(start.sequence)
        .bind(query.sequence_max)
        .bind(limit)
        .bind(offset)
        .bind(i64::try_from(query.bytes).unwrap_or(i64::MAX));
        let rows = if query.selection.filter.meta_contains.is_some() {
            self.all_heavy(statement).await?
        } else {
            self.all(statement).await?
        };
        let found = rows
            .first()
            .map_or(0, |row| usize::try_from(row.found).unwrap_or(0));
        let events: Vec<Event> = rows
            .into_iter()
            .take(query.size)
            .map(|row| row.event.into())
            .collect();
        Ok(EventPage {
            more: found > events.len(),
            events,
        })
    }

    /// Returns the number of selected events.
    pub async fn count_events(&mut self, selection: &Selection) -> Result<i64, StoreError> {
        let sql = COUNTS[IndexUsed::of(selection) as usize];
        let statement = bind_selection(sqlx::query_as::<_, (i64,)>(sql), selection);
        let rows = self.all_heavy(statement).await?;
        let count = rows.first().map(|(count,)| *count);
        count.ok_or_else(|| StoreError::Bug("a count returned no row".to_owned()))
    }

    /// Returns the position of the n-th selected event from the end, n ≥ 1; `None` if fewer events are
    /// selected. The selection must name a session.
    pub(in crate::store) async fn nth_from_end(
        &mut self,
        selection: &Selection,
        sequence_max: i64,
        n: i64,
    ) -> Result<Option<Position>, StoreError> {
        let statement = bind_selection(sqlx::query_as::<_, (_, i64)>(NTH_FROM_END), selection)
            .bind(sequence_max)
            .bind(n.saturating_sub(1));
        let row = self.optional(statement).await?;
        Ok(row.map(|(occurred_at, sequence)| Position {
            occurred_at,
            sequence,
        }))
    }
}

/// Returns a position before every event in this order.
fn beginning(order: Order) -> Position {
    match order {
        Order::OldestFirst => Position {
            occurred_at: start_of_year(1),
            sequence: 0,
        },
        Order::NewestFirst => Position {
            occurred_at: start_of_year(10_000),
            sequence: i64::MAX,
        },
    }
}

/// Binds `$1` to `$9`, the parameters in the conditions of a selection.
pub(in crate::store) fn bind_selection<'q, Row>(
    query: Statement<'q, Row>,
    selection: &'q Selection,
) -> Statement<'q, Row> {
    let EventFilter {
        event_types,
        roles,
        min_importance,
        occurred_from: _,
        occurred_until: _,
        meta_contains,
        include_deleted,
    } = &selection.filter;
    query
        .bind(selection.spirit_id.0)
        .bind(selection.session_id.as_deref())
        .bind((!event_types.is_empty()).then_some(event_types))
        .bind((!roles.is_empty()).then_some(roles))
        .bind(min_importance)
        .bind(selection.filter.from())
        .bind(selection.filter.until())
        .bind(meta_contains.as_ref().map(Meta::as_json))
        .bind(include_deleted)
}

/// The index that a statement scans.
#[derive(Clone, Copy, Debug)]
enum IndexUsed {
    Spirit,
    EventType,
    Session,
}

impl IndexUsed {
    fn of(selection: &Selection) -> Self {
        if selection.session_id.is_some() {
            Self::Session
        } else if selection.filter.event_types.len() == 1 {
            Self::EventType
        } else {
            Self::Spirit
        }
    }
}

/// The properties of a query that determine the statement of its page.
#[derive(Clone, Copy, Debug)]
struct PageShape {
    index_used: IndexUsed,
    newest_first: bool,
    basic: bool,
}

impl PageShape {
    fn of(query: &EventQuery) -> Self {
        Self {
            index_used: IndexUsed::of(&query.selection),
            newest_first: query.order == Order::NewestFirst,
            basic: query.view == View::Basic,
        }
    }

    /// Returns the index of the statement in [`PAGES`].
    fn index(self) -> usize {
        self.index_used as usize * 4 + usize::from(self.newest_first) * 2 + usize::from(self.basic)
    }
}

// The conditions of a selection that the index serves, for each index.
const IN_SPIRIT: &str = "spirit_id = $1 and $2::text is null and occurred_at >= $6 and occurred_at < $7";
const IN_EVENT_TYPE: &str = "spirit_id = $1 and $2::text is null and event_type = ($3::text[])[1] \
     and occurred_at >= $6 and occurred_at < $7";
const IN_SESSION: &str = "spirit_id = $1 and session_id = $2 and occurred_at >= $6 and occurred_at < $7";

/// The conditions of a selection that no index serves.
pub(in crate::store) const FILTERED: &str = "($3::text[] is null or event_type = any($3))
         and ($4::text[] is null or role = any($4))
         and ($5::float8 is null or importance_score >= $5)
         and ($8::text is null or meta @> $8::jsonb)
         and ($9 or not is_deleted)";

/// A page ends before the row whose length makes the running sum pass `$15`, but not before its first row. `cut`
/// counts the rows that fit, without reading long values; the page is then the same index scan with that limit,
/// so that no row is read needlessly or copied.
///
/// The plan must scan the index that has the order. Where the planner expects few rows, it would fetch all of
/// them by a bitmap or another index and sort them. `coalesce` hides from the planner how few rows the filter
/// leaves, and `select` hides the limit.
macro_rules! page {
    ($indexed:expr, $after:expr, $direction:expr, $columns:expr, $length:expr) => {
        formatcp!(
            "with cut as (
                 select
                     count(*) as found,
                     count(*) filter (where total <= $15 or total = bytes) as fits
                 from (
                     select bytes, sum(bytes) over (order by {order} rows unbounded preceding) as total
                     from (
                         select occurred_at, sequence, {length} as bytes
                         {rows}
                         limit (select $13::bigint)
                         offset $14
                     ) as lengths
                 ) as sums
             )
             select {BASIC_COLUMNS}, {columns}, (select found from cut) as found
             {rows}
             limit (select fits from cut)
             offset $14",
            columns = $columns,
            length = $length,
            order = formatcp!(
                "occurred_at {direction}, sequence {direction}",
                direction = $direction
            ),
            rows = formatcp!(
                "from events
                 where {indexed}
                 and (occurred_at, sequence) {after} ($10, $11)
                 and coalesce(sequence <= $12 and {FILTERED}, false)
                 order by occurred_at {direction}, sequence {direction}",
                indexed = $indexed,
                after = $after,
                direction = $direction
            )
        )
    };
}

/// The statements of the four pages over one index, in the order of [`PageShape::index`].
macro_rules! pages {
    ($indexed:expr) => {
        [
            page!($indexed, ">", "asc", FULL_COLUMNS, FULL_LENGTH),
            page!($indexed, ">", "asc", NO_COLUMNS, BASIC_LENGTH),
            page!($indexed, "<", "desc", FULL_COLUMNS, FULL_LENGTH),
            page!($indexed, "<", "desc", NO_COLUMNS, BASIC_LENGTH),
        ]
    };
}

/// The statements of pages, in the order of [`PageShape::index`].
pub(in crate::store) const PAGES: [&str; 12] = {
    let [[a, b, c, d], [e, f, g, h], [i, j, k, l]] =
        [pages!(IN_SPIRIT), pages!(IN_EVENT_TYPE), pages!(IN_SESSION)];
    [a, b, c, d, e, f, g, h, i, j, k, l]
};

macro_rules! count {
    ($indexed:expr) => {
        formatcp!(
            "select count(*) from events where {indexed} and {FILTERED}",
            indexed = $indexed
        )
    };
}

/// The statements that count events, by index in the order of [`IndexUsed`].
pub(in crate::store) const COUNTS: [&str; 3] = [count!(IN_SPIRIT), count!(IN_EVENT_TYPE), count!(IN_SESSION)];

/// Reads the position of an event of a session, counted from the end.
pub(in crate::store) const NTH_FROM_END: &str = formatcp!(
    "select occurred_at, sequence
     from events
     where {IN_SESSION}
     and coalesce(sequence <= $10 and {FILTERED}, false)
     order by occurred_at desc, sequence desc
     limit 1
     offset (select $11::bigint)"
);
