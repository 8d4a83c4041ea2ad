//! The statements that list and count events.
//!
//! Each combination of index, order and view has a statement of its own, because it has a plan of its own. A selection
//! without a filter has a statement without the conditions of one.

use const_format::formatcp;

use super::page_rows::{BASIC_PAGE_COLUMNS, FULL_PAGE_COLUMNS};

// The conditions of a selection that the index serves, for each index.
const IN_SPIRIT: &str = "spirit_id = $1 and $2::text is null and occurred_at >= $6 and occurred_at < $7";
const IN_EVENT_TYPE: &str = "spirit_id = $1 and $2::text is null and event_type = ($3::text[])[1] \
     and occurred_at >= $6 and occurred_at < $7";
const IN_SESSION: &str = "spirit_id = $1 and session_id = $2 and occurred_at >= $6 and occurred_at < $7";

/// The conditions of a selection that no index serves. The path is parsed once, not for each event.
pub(in crate::store) const FILTERED: &str = "($3::text[] is null or event_type = any($3))
         and ($4::text[] is null or role = any($4))
         and ($10::text[] is null or author = any($10))
         and ($5::float8 is null or importance_score >= $5)
         and ($8::text is null or meta @> $8::jsonb)
         and ($11::text is null or meta @@ (select $11::jsonpath))
         and ($9 or not is_deleted)";

/// One row more than the page has is read, to know whether rows follow; the service cuts the page to its bytes.
///
/// The plan must scan the index that has the order. Where the planner expects few rows, it would fetch all of
/// them by a bitmap or another index and sort them. `coalesce` hides from the planner how few rows the filter
/// leaves, and `select` hides the limit.
///
/// The arguments after the direction are the conditions of the selection, and the numbers of the first parameter
/// of the position and of those after it.
macro_rules! page {
    ($columns:expr, $after:expr, $direction:expr, $indexed:expr, $others:expr, $parameters:expr) => {{
        const NUMBERS: [&str; 5] = $parameters;
        formatcp!(
            "select {columns}
             from events
             where {indexed}
             and (occurred_at, sequence) {after} ({occurred_at}, {sequence})
             and coalesce(sequence <= {sequence_max} and {others}, false)
             order by occurred_at {direction}, sequence {direction}
             limit (select {limit}::bigint)
             offset {offset}",
            columns = $columns,
            after = $after,
            direction = $direction,
            indexed = $indexed,
            others = $others,
            occurred_at = NUMBERS[0],
            sequence = NUMBERS[1],
            sequence_max = NUMBERS[2],
            limit = NUMBERS[3],
            offset = NUMBERS[4],
        )
    }};
}

/// The statements of the four pages over one index.
macro_rules! pages {
    ($($conditions:expr),*) => {
        [
            page!(FULL_PAGE_COLUMNS, ">", "asc", $($conditions),*),
            page!(BASIC_PAGE_COLUMNS, ">", "asc", $($conditions),*),
            page!(FULL_PAGE_COLUMNS, "<", "desc", $($conditions),*),
            page!(BASIC_PAGE_COLUMNS, "<", "desc", $($conditions),*),
        ]
    };
}

/// The statements of filtered pages, by index, direction and view.
pub(in crate::store) const FILTERED_PAGES: [&str; 12] = {
    const PARAMETERS: [&str; 5] = ["$12", "$13", "$14", "$15", "$16"];
    flat([
        pages!(IN_SPIRIT, FILTERED, PARAMETERS),
        pages!(IN_EVENT_TYPE, FILTERED, PARAMETERS),
        pages!(IN_SESSION, FILTERED, PARAMETERS),
    ])
};

/// The statements of pages without a filter, in the same order. `$7` is the event type or the session.
pub(in crate::store) const PLAIN_PAGES: [&str; 12] = {
    const PARAMETERS: [&str; 5] = ["$2", "$3", "$4", "$5", "$6"];
    const LIVE: &str = "not is_deleted";
    flat([
        pages!("spirit_id = $1", LIVE, PARAMETERS),
        pages!("spirit_id = $1 and event_type = $7", LIVE, PARAMETERS),
        pages!("spirit_id = $1 and session_id = $7", LIVE, PARAMETERS),
    ])
};

/// Formats a page in sequence order. The arguments after the columns are the direction, the conditions of the range and
/// the columns of the order, the other conditions, and the numbers of the parameters of time, limit and offset.
macro_rules! sequence_page {
    ($columns:expr, $direction:expr, $range:expr, $order:expr, $others:expr, $parameters:expr) => {{
        const NUMBERS: [&str; 3] = $parameters;
        formatcp!(
            "select {columns}
             from events
             where spirit_id = $1
             and {range}
             and coalesce({time}::timestamptz is not null and {others}, false)
             order by {order} {direction}
             limit (select {limit}::bigint)
             offset {offset}",
            columns = $columns,
            direction = $direction,
            range = $range,
            order = $order,
            others = $others,
            time = NUMBERS[0],
            limit = NUMBERS[1],
            offset = NUMBERS[2],
        )
    }};
}

/// The statements of the four pages over `uq_events_sequence`: of a spirit. The arguments are the parameters of the
/// position and of the highest sequence, and those of [`sequence_page`].
macro_rules! spirit_sequence_pages {
    ($after:expr, $max:expr, $($rest:expr),*) => {{
        const FORWARDS: &str = formatcp!("sequence > {} and sequence <= {}", $after, $max);
        const BACKWARDS: &str = formatcp!("sequence < {} and sequence <= {}", $after, $max);
        [
            sequence_page!(FULL_PAGE_COLUMNS, "asc", FORWARDS, "sequence", $($rest),*),
            sequence_page!(BASIC_PAGE_COLUMNS, "asc", FORWARDS, "sequence", $($rest),*),
            sequence_page!(FULL_PAGE_COLUMNS, "desc", BACKWARDS, "sequence", $($rest),*),
            sequence_page!(BASIC_PAGE_COLUMNS, "desc", BACKWARDS, "sequence", $($rest),*),
        ]
    }};
}

/// The statements of the four pages over `ix_events_session_sequence`. The session is in ranges instead of an equality:
/// for an equality and without statistics, PostgreSQL might read the sequences of the whole spirit, and a prepared
/// statement would keep that plan. Each range has one bound at each end, since PostgreSQL starts a scan at the first of
/// several.
macro_rules! session_sequence_pages {
    ($session:expr, $after:expr, $max:expr, $($rest:expr),*) => {{
        const FORWARDS: &str = formatcp!(
            "session_id is not null
             and (session_id, sequence) > ({session}, {after})
             and (session_id, sequence) <= ({session}, {max})",
            session = $session,
            after = $after,
            max = $max
        );
        const BACKWARDS: &str = formatcp!(
            "session_id is not null
             and (session_id, sequence) < ({session}, {after})
             and (session_id, sequence) >= ({session}, 1::bigint)
             and coalesce(sequence <= {max}, false)",
            session = $session,
            after = $after,
            max = $max
        );
        [
            sequence_page!(FULL_PAGE_COLUMNS, "asc", FORWARDS, "session_id, sequence", $($rest),*),
            sequence_page!(BASIC_PAGE_COLUMNS, "asc", FORWARDS, "session_id, sequence", $($rest),*),
            sequence_page!(FULL_PAGE_COLUMNS, "desc", BACKWARDS, "session_id desc, sequence", $($rest),*),
            sequence_page!(BASIC_PAGE_COLUMNS, "desc", BACKWARDS, "session_id desc, sequence", $($rest),*),
        ]
    }};
}

/// The statements of filtered pages in sequence order: of a spirit and of a session, by direction and view.
pub(in crate::store) const FILTERED_SEQUENCE_PAGES: [&str; 8] = {
    const PARAMETERS: [&str; 3] = ["$12", "$15", "$16"];
    const OTHERS: &str = formatcp!("occurred_at >= $6 and occurred_at < $7 and {FILTERED}");
    const OF_SPIRIT: &str = formatcp!("$2::text is null and {OTHERS}");
    flat([
        spirit_sequence_pages!("$13", "$14", OF_SPIRIT, PARAMETERS),
        session_sequence_pages!("$2", "$13", "$14", OTHERS, PARAMETERS),
    ])
};

/// The statements of pages in sequence order without a filter, in the same order. `$7` is the session.
pub(in crate::store) const PLAIN_SEQUENCE_PAGES: [&str; 8] = {
    const PARAMETERS: [&str; 3] = ["$2", "$5", "$6"];
    const LIVE: &str = "not is_deleted";
    flat([
        spirit_sequence_pages!("$3", "$4", LIVE, PARAMETERS),
        session_sequence_pages!("$7", "$3", "$4", LIVE, PARAMETERS),
    ])
};

const fn flat<const GROUPS: usize, const PAGES: usize>(
    pages: [[&'static str; 4]; GROUPS],
) -> [&'static str; PAGES] {
    let mut flat = [""; PAGES];
    let mut index = 0;
    while index < PAGES {
        flat[index] = pages[index / 4][index % 4];
        index += 1;
    }
    flat
}

/// The order is that of the index that the statement must scan. Without it the planner may choose another index of the
/// spirit while the table has no statistics, and read all its events for the count of a short time range.
macro_rules! count {
    ($indexed:expr) => {
        formatcp!(
            "select count(*)
             from (
                 select
                 from events
                 where {indexed}
                 and {FILTERED}
                 order by occurred_at, sequence
             ) as selected",
            indexed = $indexed
        )
    };
}

/// The statements that count events, by index: of a spirit, of an event type, of a session.
pub(in crate::store) const COUNTS: [&str; 3] = [count!(IN_SPIRIT), count!(IN_EVENT_TYPE), count!(IN_SESSION)];

/// The statements that read the position of an event of a session, counted from the end: in replay order and in
/// sequence order.
pub(in crate::store) const NTH_FROM_END: [&str; 2] = [
    formatcp!(
        "select occurred_at, sequence
         from events
         where {IN_SESSION}
         and coalesce(sequence <= $12 and {FILTERED}, false)
         order by occurred_at desc, sequence desc
         limit 1
         offset (select $13::bigint)"
    ),
    formatcp!(
        "select occurred_at, sequence
         from events
         where spirit_id = $1
         and session_id is not null
         and (session_id, sequence) <= ($2, $12::bigint)
         and (session_id, sequence) >= ($2, 1::bigint)
         and coalesce(occurred_at >= $6 and occurred_at < $7 and {FILTERED}, false)
         order by session_id desc, sequence desc
         limit 1
         offset (select $13::bigint)"
    ),
];
