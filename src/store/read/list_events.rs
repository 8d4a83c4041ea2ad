//! Reads of events: a page, a count.
//!
//! A page is a keyset walk over an index. What changes the plan (which index, direction, view) makes
//! a statement of its own; every other condition is a parameter.

use std::sync::{Arc, LazyLock};

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::{AssertSqlSafe, FromRow, Postgres, Row as _};
use uuid::Uuid;

use crate::store::pg::rows::{BASIC_COLUMNS, BASIC_LENGTH, EventRow, FULL_COLUMNS, FULL_LENGTH, NO_COLUMNS};
use crate::store::pg::error::StoreError;
use crate::store::read::Reader;
use crate::store::Store;
use crate::domain::event::{Event, Order, Position, View};
use crate::domain::filter::{EventFilter, Scope, start_of_year};
use crate::domain::ids::{EventId, SpiritId};
use crate::domain::meta::Meta;

/// A page of events that a reader wants.
#[derive(Clone, Debug)]
pub struct EventQuery {
    pub scope: Scope,
    pub order: Order,
    pub view: View,
    pub start: PageStart,
    /// Only events with this sequence or a lower one.
    pub sequence_max: i64,
    /// Events in the page at the most.
    pub size: usize,
    /// Bytes of content, meta and summaries after which the page ends early; it holds at least one event.
    pub bytes: usize,
}

/// Where a page starts.
#[derive(Clone, Copy, Debug)]
pub enum PageStart {
    /// So many events from the beginning.
    Offset(i64),
    /// Behind this position.
    After(Position),
}

/// A page of events.
#[derive(Debug)]
pub struct EventPage {
    pub events: Vec<Event>,
    /// Whether there are events behind it.
    pub more: bool,
}

struct PageRow {
    event: EventRow,
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

impl Store {
    /// These events of these spirits in the BASIC view, in no order; soft-deleted ones too.
    pub async fn get_events_basic(
        &self,
        ids: &[EventId],
        spirit_ids: &[SpiritId],
    ) -> Result<Vec<Event>, StoreError> {
        let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
        let spirit_ids: Vec<Uuid> = spirit_ids.iter().map(|id| id.0).collect();
        let statement = sqlx::query_as::<_, EventRow>(AssertSqlSafe(Arc::clone(&GET_BASIC)))
            .bind(ids)
            .bind(spirit_ids);
        let rows = self.connections.all(statement).await?;
        Ok(rows.into_iter().map(Event::from).collect())
    }
}

impl Reader {
    /// A page of events.
    pub async fn list_events(&mut self, query: &EventQuery) -> Result<EventPage, StoreError> {
        let (start, offset) = match query.start {
            PageStart::Offset(offset) => (beginning(query.order), offset),
            PageStart::After(position) => (position, 0),
        };
        let shape = Shape::of(query);
        let limit = i64::try_from(query.size).unwrap_or(i64::MAX).saturating_add(1);
        let statement = bind_scope(
            sqlx::query_as::<_, PageRow>(AssertSqlSafe(shape.page())),
            &query.scope,
        )
        .bind(start.occurred_at)
        .bind(start.sequence)
        .bind(query.sequence_max)
        .bind(limit)
        .bind(offset)
        .bind(i64::try_from(query.bytes).unwrap_or(i64::MAX));
        let rows = self.all(statement).await?;
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

    /// How many events there are.
    pub async fn count_events(&mut self, scope: &Scope) -> Result<i64, StoreError> {
        let statement = AssertSqlSafe(Arc::clone(&COUNTS[Access::of(scope) as usize]));
        let statement = bind_scope(sqlx::query_as::<_, (i64,)>(statement), scope);
        let (count,) = self.one(statement).await?;
        Ok(count)
    }

    /// The position of the n-th event from the end of the scope, n ≥ 1; `None` when it has fewer.
    pub(super) async fn nth_from_end(
        &mut self,
        scope: &Scope,
        sequence_max: i64,
        n: i64,
    ) -> Result<Option<Position>, StoreError> {
        let statement = AssertSqlSafe(Arc::clone(&NTH_FROM_END));
        let statement = bind_scope(sqlx::query_as::<_, (_, i64)>(statement), scope)
            .bind(sequence_max)
            .bind(n.saturating_sub(1));
        let row = self.optional(statement).await?;
        Ok(row.map(|(occurred_at, sequence)| Position {
            occurred_at,
            sequence,
        }))
    }
}

/// Before the first event in this order, whatever it is.
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

pub(super) type QueryAs<'q, Row> = sqlx::query::QueryAs<'q, Postgres, Row, PgArguments>;

/// Binds `$1` to `$9`, which [`Access::condition`] and [`FILTERED`] read.
pub(super) fn bind_scope<'q, Row>(query: QueryAs<'q, Row>, scope: &'q Scope) -> QueryAs<'q, Row> {
    let EventFilter {
        event_types,
        roles,
        min_importance,
        occurred_from: _,
        occurred_until: _,
        meta_contains,
        include_deleted,
    } = &scope.filter;
    query
        .bind(scope.spirit_id.0)
        .bind(scope.session_id.as_deref())
        .bind((!event_types.is_empty()).then_some(event_types))
        .bind((!roles.is_empty()).then_some(roles))
        .bind(min_importance)
        .bind(scope.filter.from())
        .bind(scope.filter.until())
        .bind(meta_contains.as_ref().map(Meta::as_json))
        .bind(include_deleted)
}

/// The index that a statement walks: of the spirit, of one event type or of one session.
#[derive(Clone, Copy, Debug)]
enum Access {
    Spirit,
    Type,
    PgSession,
}

impl Access {
    const ALL: [Self; 3] = [Self::Spirit, Self::Type, Self::PgSession];

    fn of(scope: &Scope) -> Self {
        if scope.session_id.is_some() {
            Self::PgSession
        } else if scope.filter.event_types.len() == 1 {
            Self::Type
        } else {
            Self::Spirit
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Spirit => "spirit",
            Self::Type => "type",
            Self::PgSession => "session",
        }
    }

    /// The part of a scope's condition that the index serves.
    fn condition(self) -> String {
        let which = match self {
            Self::Spirit => "$2::text is null",
            Self::Type => "$2::text is null and event_type = ($3::text[])[1]",
            Self::PgSession => "session_id = $2",
        };
        format!(
            "spirit_id = $1
             and {which}
             and occurred_at >= $6
             and occurred_at < $7"
        )
    }
}

/// The rest of a scope's condition.
pub(super) const FILTERED: &str = "($3::text[] is null or event_type = any($3))
         and ($4::text[] is null or role = any($4))
         and ($5::float8 is null or importance_score >= $5)
         and ($8::text is null or meta @> $8::jsonb)
         and ($9 or not is_deleted)";

/// What tells the plans of pages apart.
#[derive(Clone, Copy, Debug)]
struct Shape {
    access: Access,
    newest_first: bool,
    basic: bool,
}

impl Shape {
    const COUNT: usize = 4 * Access::ALL.len();

    fn of(query: &EventQuery) -> Self {
        Self {
            access: Access::of(&query.scope),
            newest_first: query.order == Order::NewestFirst,
            basic: query.view == View::Basic,
        }
    }

    fn index(self) -> usize {
        self.access as usize * 4 + usize::from(self.newest_first) * 2 + usize::from(self.basic)
    }

    fn from_index(index: usize) -> Self {
        Self {
            access: Access::ALL[index / 4],
            newest_first: index & 2 != 0,
            basic: index & 1 != 0,
        }
    }

    fn page(self) -> Arc<str> {
        Arc::clone(&PAGES[self.index()])
    }

    /// A page ends where the running sum of its rows' lengths passes `$15`. `cut` finds that place without
    /// reading a long value, and how many rows there are with those cut off; the page itself is then the
    /// same index scan with a limit, so that no row is read for nothing and none is copied.
    ///
    /// The planner is to walk the index that has the order. Where it expects few rows, it would rather
    /// read all of them by a bitmap or by another index and sort them; so it is told neither how few the
    /// filter leaves (`coalesce`) nor the limit (`select`).
    fn page_sql(self) -> String {
        let indexed = self.access.condition();
        let (after, direction) = if self.newest_first {
            ("<", "desc")
        } else {
            (">", "asc")
        };
        let order = format!("occurred_at {direction}, sequence {direction}");
        let (columns, length) = if self.basic {
            (NO_COLUMNS, BASIC_LENGTH)
        } else {
            (FULL_COLUMNS, FULL_LENGTH)
        };
        let rows = format!(
            "from events
             where {indexed}
             and (occurred_at, sequence) {after} ($10, $11)
             and coalesce(sequence <= $12 and {FILTERED}, false)
             order by {order}"
        );
        format!(
            "with cut as (
                 select count(*) as found, count(*) filter (where bytes_before <= $15) as fits
                 from (
                     select sum(bytes) over (order by {order} rows unbounded preceding) - bytes as bytes_before
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
             offset $14"
        )
    }
}

static PAGES: LazyLock<[Arc<str>; Shape::COUNT]> =
    LazyLock::new(|| std::array::from_fn(|index| Shape::from_index(index).page_sql().into()));

static GET_BASIC: LazyLock<Arc<str>> = LazyLock::new(|| {
    format!(
        "select {BASIC_COLUMNS}, {NO_COLUMNS}
         from events
         where id = any($1)
         and coalesce(spirit_id = any($2), false)"
    )
    .into()
});

static COUNTS: LazyLock<[Arc<str>; 3]> = LazyLock::new(|| {
    Access::ALL.map(|access| {
        let indexed = access.condition();
        format!("select count(*) from events where {indexed} and {FILTERED}").into()
    })
});

static NTH_FROM_END: LazyLock<Arc<str>> = LazyLock::new(|| {
    let indexed = Access::PgSession.condition();
    format!(
        "select occurred_at, sequence
         from events
         where {indexed}
         and coalesce(sequence <= $10 and {FILTERED}, false)
         order by occurred_at desc, sequence desc
         limit 1
         offset (select $11::bigint)"
    )
    .into()
});

/// See [`super::statements`].
pub(super) fn statements() -> Vec<(String, Arc<str>)> {
    let pages = (0..Shape::COUNT).map(Shape::from_index).map(|shape| {
        let access = shape.access.name();
        let order = if shape.newest_first { "newest" } else { "oldest" };
        let view = if shape.basic { "basic" } else { "full" };
        (format!("list_events/{access}/{order}/{view}"), shape.page())
    });
    let counts = Access::ALL.map(|access| {
        let count = Arc::clone(&COUNTS[access as usize]);
        (format!("count_events/{}", access.name()), count)
    });
    let others = [
        ("get_events_basic", &*GET_BASIC),
        ("nth_from_end", &*NTH_FROM_END),
    ];
    pages
        .chain(counts)
        .chain(others.map(|(name, sql)| (name.to_owned(), Arc::clone(sql))))
        .collect()
}
