//! The statements that read pages of sessions.
//!
//! The order of sessions has three ranges, and each is a scan of an index: those of the minute in which the page before
//! ended, those of earlier minutes, and those without live events. One condition for all three would not be a range
//! of the index.

use const_format::formatcp;

use crate::domain::limits::PAGE_BYTES;

/// The columns of a session's row.
pub(in crate::store) const SESSION_COLUMNS: &str = "spirit_id, session_id, active_minute, title, owner, meta::text as meta, \
     revision, updated_at";

// The statements below read events of the session `row` of spirit `$1`. They name the spirit by its parameter, since the
// planner does not know which spirit `row` belongs to if it comes from a page or from the target of an update.

/// The last live event of the session `row`: a seek of `ix_events_session_id`. The range is written as in the pages of a
/// session's events. It starts at the session's active minute, so later events, which are all soft-deleted, cost nothing,
/// and a session without live events is not searched.
pub(in crate::store) const LAST_LIVE_EVENT: &str = "
    select events.occurred_at
    from events
    where events.spirit_id = $1
    and events.session_id is not null
    and (events.session_id, events.occurred_at) < (row.session_id, row.active_minute + interval '1 minute')
    and events.session_id >= row.session_id
    and events.session_id <= row.session_id
    and row.active_minute is not null
    and not events.is_deleted
    order by events.session_id desc, events.occurred_at desc, events.sequence desc
    limit 1";

/// The number of live events of the session `row`, and the time of the first of them.
pub(super) const COUNTS: &str = "
    select count(*) as event_count, min(events.occurred_at) as first_occurred_at
    from events
    where events.spirit_id = $1
    and events.session_id = row.session_id
    and not events.is_deleted";

/// The last event of the session `row`, live or not: a seek of `ix_events_session_sequence`. The range is written as in the
/// pages of a session in sequence order.
pub(super) const LAST_EVENT: &str = "
    select events.sequence
    from events
    where events.spirit_id = $1
    and events.session_id is not null
    and (events.session_id, events.sequence) <= (row.session_id, 9223372036854775807)
    and (events.session_id, events.sequence) >= (row.session_id, 1::bigint)
    order by events.session_id desc, events.sequence desc
    limit 1";

/// The ranges of the order, each with its condition and its order within. `$2` is a minute, `$3` a session and `$4` the
/// lowest minute.
const RANGES: [(&str, &str); 3] = [
    (
        "active_minute = $2 and session_id > $3 collate \"C\" and active_minute >= $4",
        "session_id",
    ),
    (
        "active_minute < $2 and active_minute >= $4 and $3::text is not null",
        "active_minute desc, session_id",
    ),
    (
        "active_minute is null and session_id > $3 collate \"C\"
         and $2::timestamptz is not null and $4::timestamptz is not null",
        "active_minute desc, session_id",
    ),
];

/// The condition of earlier minutes in a page without a filter, which has no lowest minute. For a range with two ends the
/// planner expects few sessions, and may sort all of a spirit instead of scanning the index in its order.
const ALL_EARLIER: &str = "active_minute < $2 and $3::text is not null and $4::timestamptz is not null";

/// Returns the condition of a range in a page without a filter.
const fn plain_condition(range: usize) -> &'static str {
    if range == 1 { ALL_EARLIER } else { RANGES[range].0 }
}

/// The conditions that no index serves.
const FILTER: &str = "($7::text is null or owner = $7 collate \"C\")
     and ($8::text is null or starts_with(session_id, $8))
     and ($9::text is null or strpos(title_folded, $9 collate \"C\") > 0)
     and ($10::text is null or meta @> $10::jsonb)";

/// A page of the sessions in a range: at most `$5` rows, ending with the row that passes the byte limit of a page.
macro_rules! page {
    ($range:expr, $rows:expr) => {
        formatcp!(
            "select
                 row.spirit_id, row.session_id, row.active_minute, row.title, row.owner, row.meta, row.revision,
                 row.updated_at, counts.event_count, counts.first_occurred_at, row.last_occurred_at,
                 coalesce(last.sequence, 0) as last_sequence, row.found
             from (
                 select
                     rows.*, count(*) over () as found,
                     sum(bytes) over (order by {order} rows unbounded preceding) - bytes as bytes_before
                 from (
                     select rows.*, coalesce(octet_length(meta), 0) as bytes
                     from ({rows}) as rows
                 ) as rows
             ) as row
             cross join lateral ({COUNTS} and $6::boolean) as counts
             left join lateral ({LAST_EVENT}) as last on true
             where row.bytes_before <= {PAGE_BYTES}
             order by {order}",
            rows = $rows,
            order = RANGES[$range].1
        )
    };
}

macro_rules! plain_page {
    ($range:expr, $owner:expr) => {{
        const ROWS: &str = formatcp!(
            "select row.*, last.occurred_at as last_occurred_at
             from (
                 select {SESSION_COLUMNS}
                 from sessions
                 where spirit_id = $1
                 and {owner}{condition}
                 order by {order}
                 limit (select $5::bigint)
             ) as row
             left join lateral ({LAST_LIVE_EVENT}) as last on true",
            owner = $owner,
            condition = plain_condition($range),
            order = RANGES[$range].1
        );
        page!($range, ROWS)
    }};
}

/// The scan of the first `$13` sessions of a range, those that match, and the end of the scan if fewer than `$5` match: in
/// one statement, so that both see the same sessions.
macro_rules! filtered_page {
    ($range:expr, $owner:expr) => {{
        const ROWS: &str = formatcp!(
            "select row.*, last.occurred_at as last_occurred_at
             from (
                 select {SESSION_COLUMNS}
                 from (
                     select
                         spirit_id, session_id, active_minute, title, title_folded, owner, meta, revision, updated_at
                     from sessions
                     where spirit_id = $1
                     and {owner}{condition}
                     order by {order}
                     limit (select $13::bigint)
                 ) as candidates
                 where coalesce({FILTER}, false)
             ) as row
             left join lateral ({LAST_LIVE_EVENT}) as last on true
             where ($11::timestamptz is null or last.occurred_at >= $11)
             and ($12::timestamptz is null or last.occurred_at < $12)
             order by {order}
             limit (select $5::bigint)",
            owner = $owner,
            condition = RANGES[$range].0,
            order = RANGES[$range].1
        );
        formatcp!(
            "with matches as materialized ({ROWS}),
             scan as (
                 select session_id, active_minute, number
                 from (
                     select session_id, active_minute, row_number() over (order by {order}) as number
                     from sessions
                     where spirit_id = $1
                     and {owner}{condition}
                     order by {order}
                     limit (select $13::bigint)
                 ) as numbered
                 where (select count(*) from matches) < $5
                 order by number desc
                 limit 1
             ),
             page as ({page})
             select
                 page.*, scan.number as scanned, scan.session_id as end_session_id,
                 scan.active_minute as end_active_minute
             from page
             left join scan on true
             union all
             select
                 $1, '', null, null, null, null, 0, null, 0, null, null, 0, 0, number, session_id, active_minute
             from scan
             where not exists (select from page)
             order by {order}",
            owner = $owner,
            condition = RANGES[$range].0,
            order = RANGES[$range].1,
            page = page!($range, "select * from matches")
        )
    }};
}

/// The statements of one kind for the three ranges.
macro_rules! ranges {
    ($statement:ident, $owner:expr) => {
        [
            $statement!(0, $owner),
            $statement!(1, $owner),
            $statement!(2, $owner),
        ]
    };
}

const ANY_OWNER: &str = "";
const OF_OWNER: &str = "owner = $7 and ";

/// The statements of pages without a filter: over all sessions and over those of an owner, by range.
pub(in crate::store) const PLAIN: [[&str; 3]; 2] =
    [ranges!(plain_page, ANY_OWNER), ranges!(plain_page, OF_OWNER)];

/// The statements of filtered pages, by owner and range.
pub(in crate::store) const FILTERED: [[&str; 3]; 2] = [
    ranges!(filtered_page, ANY_OWNER),
    ranges!(filtered_page, OF_OWNER),
];
