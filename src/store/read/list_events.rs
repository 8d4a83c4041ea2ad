//! Lists and counts events.
//!
//! A page is a keyset scan of an index. Each combination of index, order and view has a statement of its own,
//! because it has a plan of its own. Filters are parameters; a selection without them has a statement
//! without their conditions, which would cost more than the rest of the scan.

use super::Reader;
use super::event_pages::{
    COUNTS, FILTERED_PAGES, FILTERED_SEQUENCE_PAGES, NTH_FROM_END, PLAIN_PAGES, PLAIN_SEQUENCE_PAGES,
};
use super::long_values::long_values;
use super::page_rows::{PageRow, PageRows};
use crate::domain::event::{Event, Order, Position, View};
use crate::domain::filter::{EventFilter, Selection};
use crate::domain::meta::Meta;
use crate::store::pg::error::StoreError;
use crate::store::pg::session::Statement;

/// A request for a page of events.
#[derive(Clone, Debug)]
pub struct EventQuery {
    pub selection: Selection,
    pub order: Order,
    pub view: View,
    pub start: PageStart,
    /// The sequence after which the first page starts; for [`Order::Sequence`] only, otherwise 0.
    pub after_sequence: i64,
    /// Highest sequence that the page may contain.
    pub sequence_max: i64,
    /// Maximum number of events in the page.
    pub size: usize,
    /// Maximum bytes of the page, by the length of its texts; a page holds at least one event.
    pub bytes: usize,
}

/// Maximum of [`EventPage::next_size`].
const NEXT_SIZE_MAX: usize = 500;

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
    /// Size of the next page: the number of events that fit if they are as long as those of this page, at most
    /// [`NEXT_SIZE_MAX`].
    pub next_size: usize,
}

impl Reader {
    /// Returns a page of the selected events.
    pub async fn list_events(&mut self, query: &EventQuery) -> Result<EventPage, StoreError> {
        let (mut start, mut offset) = match query.start {
            PageStart::Offset(offset) => (beginning(query), offset),
            PageStart::After(position) => (position, 0),
        };
        loop {
            let rows = self.page_rows(query, start, offset).await?;
            let mut page = PageRows::fitting(rows, query.view, query.size, query.bytes);
            let incomplete = page.incomplete();
            if !incomplete.is_empty() {
                let statement = long_values(&query.selection, query.view, incomplete);
                let values = self.all(statement).await;
                page.complete(values.map_err(|error| error.in_filter(&query.selection.filter))?);
            }
            let (more, end) = (page.is_cut, page.end);
            let next_size = page.next_size(NEXT_SIZE_MAX);
            let events = page.into_events();
            match end {
                // Every event of the page was edited meanwhile and is not selected any more.
                Some(end) if events.is_empty() && more => (start, offset) = (end, 0),
                _ => {
                    return Ok(EventPage {
                        events,
                        more,
                        next_size,
                    });
                }
            }
        }
    }

    /// Reads the rows of a page, and one more if it exists, without their long values.
    async fn page_rows(
        &mut self,
        query: &EventQuery,
        start: Position,
        offset: i64,
    ) -> Result<Vec<PageRow>, StoreError> {
        let Selection {
            spirit_id,
            session_id,
            filter,
        } = &query.selection;
        let (sql, is_plain) = page_text(query);
        let statement = sqlx::query_as(sql);
        let statement = if is_plain {
            statement.bind(spirit_id.0)
        } else {
            bind_selection(statement, &query.selection)
        };
        let limit = i64::try_from(query.size).unwrap_or(i64::MAX).saturating_add(1);
        let mut statement = statement
            .bind(start.occurred_at)
            .bind(start.sequence)
            .bind(query.sequence_max)
            .bind(limit)
            .bind(offset);
        if is_plain && let Some(value) = session_id.as_ref().or(filter.event_types.first()) {
            statement = statement.bind(value);
        }
        let rows = if filter.reads_meta() {
            self.all_heavy(statement).await
        } else {
            self.all(statement).await
        };
        rows.map_err(|error| error.in_filter(filter))
    }

    /// Returns the number of selected events.
    pub async fn count_events(&mut self, selection: &Selection) -> Result<i64, StoreError> {
        let sql = COUNTS[IndexUsed::of(selection) as usize];
        let statement = bind_selection(sqlx::query_as::<_, (i64,)>(sql), selection);
        let rows = self.all_heavy(statement).await;
        let rows = rows.map_err(|error| error.in_filter(&selection.filter))?;
        let count = rows.first().map(|(count,)| *count);
        count.ok_or_else(|| StoreError::Bug("a count returned no row".to_owned()))
    }

    /// Returns the position of the n-th selected event from the end in this order, n ≥ 1; `None` if fewer events
    /// are selected. The selection must name a session.
    pub(in crate::store) async fn nth_from_end(
        &mut self,
        selection: &Selection,
        order: Order,
        sequence_max: i64,
        n: i64,
    ) -> Result<Option<Position>, StoreError> {
        let sql = NTH_FROM_END[usize::from(order.is_by_sequence())];
        let statement = bind_selection(sqlx::query_as::<_, (_, i64)>(sql), selection)
            .bind(sequence_max)
            .bind(n.saturating_sub(1));
        let rows = self.all_heavy(statement).await;
        let row = rows.map_err(|error| error.in_filter(&selection.filter))?.pop();
        Ok(row.map(|(occurred_at, sequence)| Position {
            occurred_at,
            sequence,
        }))
    }
}

/// Returns the position before every selected event in the query's order. It is within the filter's range of time, because
/// the scan of the index starts at it.
fn beginning(query: &EventQuery) -> Position {
    let filter = &query.selection.filter;
    match query.order {
        Order::NewestFirst => Position {
            occurred_at: filter.until(),
            sequence: 0,
        },
        Order::OldestFirst => Position {
            occurred_at: filter.from(),
            sequence: 0,
        },
        Order::Sequence => Position {
            occurred_at: filter.from(),
            sequence: query.after_sequence,
        },
        Order::SequenceDesc => Position {
            occurred_at: filter.until(),
            sequence: i64::MAX,
        },
    }
}

/// Binds `$1` to `$11`, the parameters in the conditions of a selection.
pub(in crate::store) fn bind_selection<'q, Row>(
    query: Statement<'q, Row>,
    selection: &'q Selection,
) -> Statement<'q, Row> {
    let EventFilter {
        event_types,
        roles,
        authors,
        min_importance,
        occurred_from: _,
        occurred_until: _,
        meta_contains,
        meta_matches,
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
        .bind((!authors.is_empty()).then_some(authors))
        .bind(meta_matches.as_deref())
}

/// The index that a statement in replay or feed order scans.
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

/// Returns the statement of the query's page, and whether it is without the conditions of a filter.
fn page_text(query: &EventQuery) -> (&'static str, bool) {
    let EventQuery {
        selection,
        order,
        view,
        ..
    } = query;
    let shape = usize::from(order.is_descending()) * 2 + usize::from(*view == View::Basic);
    if order.is_by_sequence() {
        let is_plain = is_plain_by_sequence(selection);
        let pages = if is_plain {
            PLAIN_SEQUENCE_PAGES
        } else {
            FILTERED_SEQUENCE_PAGES
        };
        (
            pages[usize::from(selection.session_id.is_some()) * 4 + shape],
            is_plain,
        )
    } else {
        let is_plain = is_plain(selection);
        let pages = if is_plain { PLAIN_PAGES } else { FILTERED_PAGES };
        (pages[IndexUsed::of(selection) as usize * 4 + shape], is_plain)
    }
}

/// Like [`is_plain`], for orders by sequence, whose indexes do not have the event type.
pub(in crate::store) fn is_plain_by_sequence(selection: &Selection) -> bool {
    is_plain(selection) && selection.filter.event_types.is_empty()
}

/// Returns whether the selection has no other condition than those that an index serves, besides that events are
/// not soft-deleted.
fn is_plain(selection: &Selection) -> bool {
    let EventFilter {
        event_types,
        roles,
        authors,
        min_importance,
        occurred_from,
        occurred_until,
        meta_contains,
        meta_matches,
        include_deleted,
    } = &selection.filter;
    let types_max = usize::from(selection.session_id.is_none());
    event_types.len() <= types_max
        && roles.is_empty()
        && authors.is_empty()
        && min_importance.is_none()
        && occurred_from.is_none()
        && occurred_until.is_none()
        && meta_contains.is_none()
        && meta_matches.is_none()
        && !include_deleted
}
