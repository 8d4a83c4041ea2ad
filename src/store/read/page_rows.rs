//! Rows of pages of events. A page's statement returns short values and only the lengths of long ones. Long
//! values are read by a second statement, for the rows that fit into the page, so that no long value is read
//! without being sent.

use std::collections::HashMap;

use const_format::formatcp;
use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row as _};
use uuid::Uuid;

use crate::domain::event::{Event, Position, View};
use crate::store::pg::rows::{BASIC_COLUMNS, CONTENT_BYTES, CutEventRow, EventRow, NO_COLUMNS};

/// Maximum bytes of a content, a meta or a summary that a page's statement returns. Values of up to this length
/// are read whether or not they fit into the page.
const SHORT_BYTES_MAX: usize = 4 * 1024;
/// Bytes that a page counts for the fields of an event that are not texts.
const FIELD_BYTES: usize = 256;

/// Formats the columns of a [`PageRow`]; the arguments are the columns after the basic ones.
macro_rules! page_columns {
    ($values:expr) => {
        formatcp!(
            "id, spirit_id, sequence, event_type,
             case when octet_length(meta_summary) <= {SHORT_BYTES_MAX} then meta_summary end as meta_summary,
             occurred_at, session_id, role, author, source_uri, dedupe_key, importance_score, revision,
             deleted_at, created_at, updated_at, {values}",
            values = $values
        )
    };
}

/// Columns of a [`PageRow`] in the FULL view. `meta_bytes` is the length of `meta` as text, however well it is
/// compressed. Lengths are computed without detoasting long values.
pub(in crate::store) const FULL_PAGE_COLUMNS: &str = page_columns!(formatcp!(
    "case when octet_length(content) <= {SHORT_BYTES_MAX} then content end as content,
     case when meta_bytes <= {SHORT_BYTES_MAX} then meta::text end as meta,
     octet_length(content) + meta_bytes + coalesce(octet_length(meta_summary), 0) as value_bytes, {CONTENT_BYTES}"
));

/// Columns of a [`PageRow`] in the BASIC view.
pub(in crate::store) const BASIC_PAGE_COLUMNS: &str = page_columns!(formatcp!(
    "{NO_COLUMNS}, coalesce(octet_length(meta_summary), 0) as value_bytes, 0 as content_bytes"
));

/// Names of the columns of a [`PageRow`], for a query around the one that computes them.
pub(in crate::store) const PAGE_COLUMN_NAMES: &str =
    formatcp!("{BASIC_COLUMNS}, content, meta, value_bytes, content_bytes");

/// Indexes of the last columns that every page has.
const VALUE_BYTES: usize = 18;
const PAGE_CONTENT_BYTES: usize = 19;

/// An event of a page, possibly without its long values.
#[derive(Debug)]
pub(in crate::store) struct PageRow {
    event: Event,
    /// Bytes of content, meta and summary in the view of the page, whether or not they were read.
    value_bytes: usize,
    /// Bytes of the whole content; 0 in the BASIC view.
    content_bytes: usize,
}

impl FromRow<'_, PgRow> for PageRow {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        let value_bytes: i32 = row.try_get(VALUE_BYTES)?;
        let content_bytes: i32 = row.try_get(PAGE_CONTENT_BYTES)?;
        Ok(Self {
            event: EventRow::from_row(row)?.into(),
            value_bytes: usize::try_from(value_bytes).unwrap_or(0),
            content_bytes: usize::try_from(content_bytes).unwrap_or(0),
        })
    }
}

impl From<CutEventRow> for PageRow {
    fn from(CutEventRow { event, content_bytes }: CutEventRow) -> Self {
        let unread = content_bytes.saturating_sub(event.content.as_ref().map_or(0, String::len));
        Self {
            value_bytes: event.text_bytes() + unread,
            event,
            content_bytes,
        }
    }
}

impl PageRow {
    /// Returns the sequence of the event.
    pub(in crate::store) fn sequence(&self) -> i64 {
        self.event.sequence
    }

    /// Returns the row with content as the view returns it.
    fn in_view(mut self, view: View) -> Self {
        if let View::Cut(max) = view {
            let max = usize::try_from(max).unwrap_or(0);
            self.event.cut_content(max, self.content_bytes);
            if self.content_bytes > max {
                let kept = self.event.content.as_ref().map_or(max, String::len);
                self.value_bytes -= self.content_bytes - kept;
            }
        }
        self
    }

    /// Returns whether a long value was left out.
    fn is_incomplete(&self) -> bool {
        self.event.text_bytes() < self.value_bytes
    }

    /// Returns the bytes that the event counts in a page.
    fn bytes(&self) -> usize {
        let Event {
            session_id,
            role,
            author,
            source_uri,
            dedupe_key,
            ..
        } = &self.event;
        let texts = [session_id, role, author, source_uri, dedupe_key];
        FIELD_BYTES
            + self.event.event_type.len()
            + texts.into_iter().flatten().map(String::len).sum::<usize>()
            + self.value_bytes
    }
}

/// The rows of a page, in the order of the page.
#[derive(Debug)]
pub(in crate::store) struct PageRows {
    rows: Vec<PageRow>,
    view: View,
    /// Maximum bytes of the page.
    bytes_max: usize,
    /// Whether rows follow that were read and did not fit.
    pub(in crate::store) is_cut: bool,
    /// The position of the last row that fits, even if the row was removed by
    /// [`complete`](Self::complete).
    pub(in crate::store) end: Option<Position>,
}

impl PageRows {
    /// Keeps the rows that fit into a page of this view and this number of events and bytes, at least one.
    pub(in crate::store) fn fitting(rows: Vec<PageRow>, view: View, size: usize, bytes_max: usize) -> Self {
        let is_cut = rows.len() > size;
        let rows: Vec<PageRow> = rows.into_iter().take(size).map(|row| row.in_view(view)).collect();
        let mut page = Self {
            end: rows.last().map(|row| row.event.position()),
            rows,
            view,
            bytes_max,
            is_cut,
        };
        page.cut();
        page
    }

    /// Removes the rows from the one whose bytes exceed the limit, but not the first row.
    fn cut(&mut self) {
        let mut total = 0;
        let exceeds = |row: &PageRow| {
            total += row.bytes();
            total > self.bytes_max
        };
        let fits = self.rows.iter().position(exceeds).unwrap_or(self.rows.len());
        let fits = fits.max(1);
        if fits < self.rows.len() {
            self.rows.truncate(fits);
            self.is_cut = true;
            self.end = self.rows.last().map(|row| row.event.position());
        }
    }

    /// Returns the ids of the events whose long values were left out.
    pub(in crate::store) fn incomplete(&self) -> Vec<Uuid> {
        let incomplete = self.rows.iter().filter(|row| row.is_incomplete());
        incomplete.map(|row| row.event.id.0).collect()
    }

    /// Replaces the incomplete events by these, as they are now, and removes those that are not among them. Meta
    /// and summary can have grown since, so the page is cut again.
    pub(in crate::store) fn complete(&mut self, events: impl IntoIterator<Item = CutEventRow>) {
        let mut events: HashMap<i64, PageRow> = events
            .into_iter()
            .map(|row| (row.event.sequence, PageRow::from(row).in_view(self.view)))
            .collect();
        self.rows.retain_mut(|row| {
            if row.is_incomplete() {
                match events.remove(&row.event.sequence) {
                    Some(complete) => *row = complete,
                    None => return false,
                }
            }
            true
        });
        self.cut();
    }

    /// Returns the number of events that a page of this many bytes has if its events are as long as these; at
    /// most `size_max`. A page of that size does not read events that do not fit.
    pub(in crate::store) fn next_size(&self, size_max: usize) -> usize {
        let bytes: usize = self.rows.iter().map(PageRow::bytes).sum();
        let fits = (self.bytes_max * self.rows.len()).checked_div(bytes);
        fits.map_or(size_max, |fits| fits.clamp(1, size_max))
    }

    /// Returns the events.
    pub(in crate::store) fn into_events(self) -> Vec<Event> {
        self.rows.into_iter().map(|row| row.event).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::filter::start_of_year;
    use crate::domain::ids::{EventId, SpiritId};
    use crate::domain::meta::Meta;

    /// An event whose fields other than content, meta and summary count 266 bytes.
    fn event(sequence: i64, content: usize, meta: usize) -> Event {
        let time = start_of_year(2025);
        Event {
            id: EventId(Uuid::from_u64_pair(0, sequence.unsigned_abs())),
            spirit_id: SpiritId(Uuid::nil()),
            sequence,
            event_type: "message.in".to_owned(),
            meta_summary: None,
            content: Some("x".repeat(content)),
            content_bytes: None,
            occurred_at: time,
            session_id: None,
            role: None,
            author: None,
            meta: Some(Meta::from_json("m".repeat(meta))),
            source_uri: None,
            dedupe_key: None,
            importance_score: None,
            revision: 1,
            deleted_at: None,
            created_at: time,
            updated_at: time,
        }
    }

    /// The row of this event as a page's statement returns it.
    fn row(event: &Event) -> PageRow {
        let short = |text: &String| text.len() <= SHORT_BYTES_MAX;
        PageRow {
            value_bytes: event.text_bytes(),
            content_bytes: event.content.as_ref().map_or(0, String::len),
            event: Event {
                content: event.content.clone().filter(short),
                meta: event
                    .meta
                    .clone()
                    .filter(|meta| meta.as_json().len() <= SHORT_BYTES_MAX),
                ..event.clone()
            },
        }
    }

    /// The row of this event as the statement of long values returns it.
    fn complete(event: &Event) -> CutEventRow {
        CutEventRow {
            content_bytes: event.content.as_ref().map_or(0, String::len),
            event: event.clone(),
        }
    }

    fn sequences(page: &PageRows) -> Vec<i64> {
        page.rows.iter().map(|row| row.event.sequence).collect()
    }

    fn end(page: &PageRows) -> Option<i64> {
        page.end.map(|end| end.sequence)
    }

    #[test]
    fn a_page_ends_before_the_event_that_exceeds_its_bytes_and_has_at_least_one() {
        let rows = || [1, 2, 3].map(|sequence| row(&event(sequence, 734, 0))).into();
        for (size, bytes, kept, is_cut) in [
            (3, 3_000, 3, false),
            (3, 2_999, 2, true),
            (3, 2_000, 2, true),
            (3, 1, 1, true),
            (2, 3_000, 2, true),
        ] {
            let page = PageRows::fitting(rows(), View::Full, size, bytes);
            assert_eq!(page.rows.len(), kept, "{size} events, {bytes} bytes");
            assert_eq!(page.is_cut, is_cut, "{size} events, {bytes} bytes");
        }
        assert_eq!(PageRows::fitting(Vec::new(), View::Full, 3, 1).rows.len(), 0);
    }

    #[test]
    fn long_values_are_read_only_for_events_that_fit() {
        let events = [
            event(1, 10, 2),
            event(2, 5_000, 2),
            event(3, 10, 5_000),
            event(4, 5_000, 5_000),
        ];
        let page = PageRows::fitting(events.iter().map(row).collect(), View::Full, 4, 12_000);
        assert_eq!(sequences(&page), [1, 2, 3]);
        assert_eq!(page.incomplete(), [2, 3].map(|id| Uuid::from_u64_pair(0, id)));
    }

    #[test]
    fn events_that_changed_between_the_reads_are_as_they_are_now() {
        let events = [
            event(1, 10, 2),
            event(2, 5_000, 2),
            event(3, 5_000, 2),
            event(4, 10, 2),
        ];
        let page = || PageRows::fitting(events.iter().map(row).collect(), View::Full, 4, 20_000);

        let mut unchanged = page();
        unchanged.complete(events[1..3].iter().map(complete));
        assert_eq!(unchanged.into_events(), events);

        let mut deleted = page();
        deleted.complete([complete(&events[1])]);
        assert_eq!((sequences(&deleted), deleted.is_cut), (vec![1, 2, 4], false));

        let mut grown = page();
        grown.complete([event(2, 5_000, 12_000), event(3, 5_000, 2)].iter().map(complete));
        assert_eq!(
            (sequences(&grown), grown.is_cut, end(&grown)),
            (vec![1, 2], true, Some(2))
        );
    }

    #[test]
    fn a_page_whose_events_are_all_gone_ends_at_its_last_event() {
        let events = [event(1, 5_000, 2), event(2, 5_000, 2)];
        let mut page = PageRows::fitting(events.iter().map(row).collect(), View::Full, 1, 20_000);
        page.complete([]);
        assert_eq!(
            (sequences(&page), page.is_cut, end(&page)),
            (vec![], true, Some(1))
        );
    }

    #[test]
    fn a_page_counts_what_is_left_of_cut_content() {
        let events = [event(1, 10, 0), event(2, 3_000, 0), event(3, 50_000, 0)];
        let rows = || events.iter().map(row).collect();
        assert_eq!(sequences(&PageRows::fitting(rows(), View::Full, 3, 2_000)), [1]);
        let mut page = PageRows::fitting(rows(), View::Cut(100), 3, 2_000);
        assert_eq!(sequences(&page), [1, 2, 3]);
        assert_eq!(
            page.incomplete(),
            [Uuid::from_u64_pair(0, 3)],
            "only the long content was not read"
        );
        page.complete([CutEventRow {
            event: event(3, 100, 0),
            content_bytes: 50_000,
        }]);
        assert_eq!(page.rows.iter().map(PageRow::bytes).sum::<usize>(), 3 * 266 + 210);
        let lengths = page.into_events().into_iter();
        let lengths = lengths.map(|event| (event.content.map(|content| content.len()), event.content_bytes));
        assert_eq!(
            lengths.collect::<Vec<_>>(),
            [
                (Some(10), None),
                (Some(100), Some(3_000)),
                (Some(100), Some(50_000))
            ]
        );
    }

    #[test]
    fn the_next_page_is_as_large_as_events_of_this_length_allow() {
        let page = |content| PageRows::fitting(vec![row(&event(1, content, 0))], View::Full, 1, 10_000);
        assert_eq!(page(734).next_size(500), 10);
        assert_eq!(page(734).next_size(5), 5);
        assert_eq!(page(20_000).next_size(500), 1);
        assert_eq!(
            PageRows::fitting(Vec::new(), View::Full, 1, 10_000).next_size(500),
            500
        );
    }
}
