//! Statements that read the events of a page whose long values its own statement has left out.

use const_format::formatcp;
use uuid::Uuid;

use super::event_pages::FILTERED;
use super::list_events::bind_selection;
use crate::domain::event::View;
use crate::domain::filter::Selection;
use crate::store::pg::rows::{BASIC_COLUMNS, CONTENT_BYTES, CutEventRow, FULL_COLUMNS, NO_COLUMNS};
use crate::store::pg::session::Statement;

/// Returns the statement that reads these events of the selection with their long values.
pub(in crate::store) fn long_values(
    selection: &Selection,
    view: View,
    ids: Vec<Uuid>,
) -> Statement<'_, CutEventRow> {
    let statement = |sql| bind_selection(sqlx::query_as(sql), selection).bind(ids);
    match view {
        View::Full => statement(LONG_FULL),
        View::Basic => statement(LONG_BASIC),
        View::Cut(max) => statement(LONG_CUT).bind(max),
    }
}

/// Formats the statement of a view; the arguments are the columns after the basic ones.
macro_rules! long_values {
    ($columns:expr) => {
        formatcp!(
            "select {BASIC_COLUMNS}, {columns}
             from events
             where id = any($12)
             and ($1::uuid is null or spirit_id = $1)
             and coalesce(
                 ($2::text is null or session_id = $2)
                 and occurred_at >= $6
                 and occurred_at < $7
                 and {FILTERED},
                 false
             )",
            columns = $columns
        )
    };
}

/// The statements that read events with long values. An event that was edited since its page was read, so that
/// the filter does not select it any more, is left out. The test for null, which is never true, makes the condition on the
/// spirit a filter in a generic plan: as an index condition, it would let a plan for a new database read all events of
/// the spirit. With its value, the condition selects the partition of the spirit.
pub(in crate::store) const LONG_FULL: &str = long_values!(formatcp!("{FULL_COLUMNS}, {CONTENT_BYTES}"));
pub(in crate::store) const LONG_BASIC: &str = long_values!(formatcp!("{NO_COLUMNS}, 0 as content_bytes"));
/// PostgreSQL reads no more of a content than its first `$13` characters can take.
pub(in crate::store) const LONG_CUT: &str = long_values!(formatcp!(
    "left(content, $13) as content, meta::text as meta, {CONTENT_BYTES}"
));
