//! The statements that list and count events.
//!
//! Each combination of index, order and view has a statement of its own, because it has a plan of its own. A selection
//! without a filter has a statement without the conditions of one.

use const_format::formatcp;

use super::page_rows::{BASIC_PAGE_COLUMNS, FULL_PAGE_COLUMNS};

// The conditions of a selection that the index serves, for each index.
//
// The session is in ranges instead of an equality: with an equality, the order of a page is also that of an index of the
// spirit, and on a small table without statistics PostgreSQL may scan that one. A prepared statement would keep such a plan.
// The range of the session alone shows the planner how few events match, for it takes two row comparisons to be unrelated.
const IN_SPIRIT: &str = "spirit_id = $1 and $2::text is null and occurred_at >= $6 and occurred_at < $7";
const IN_EVENT_TYPE: &str = "spirit_id = $1 and $2::text is null and event_type = ($3::text[])[1] \
     and occurred_at >= $6 and occurred_at < $7";
const IN_SESSION: &str = "spirit_id = $1 and session_id is not null \
     and (session_id, occurred_at) >= ($2, $6) and (session_id, occurred_at) < ($2, $7) \
     and session_id >= $2 and session_id <= $2";

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
macro_rules! page {
    ($columns:expr, $range:expr, $order:expr, $others:expr, $limit:expr, $offset:expr) => {
        formatcp!(
            "select {columns}
             from events
             where spirit_id = $1
             and {range}
             and coalesce({others}, false)
             order by {order}
             limit (select {limit}::bigint)
             offset {offset}",
            columns = $columns,
            range = $range,
            order = $order,
            others = $others,
            limit = $limit,
            offset = $offset,
        )
    };
}

/// The statements of the four pages over one index. The arguments are range and order forwards, the same backwards, the
/// other conditions, and the parameters of limit and offset.
///
/// A range has one bound at each end, since PostgreSQL starts a scan at the first of several row comparisons.
macro_rules! pages {
    ($forwards:expr, $ascending:expr, $backwards:expr, $descending:expr, $($rest:expr),*) => {
        [
            page!(FULL_PAGE_COLUMNS, $forwards, $ascending, $($rest),*),
            page!(BASIC_PAGE_COLUMNS, $forwards, $ascending, $($rest),*),
            page!(FULL_PAGE_COLUMNS, $backwards, $descending, $($rest),*),
            page!(BASIC_PAGE_COLUMNS, $backwards, $descending, $($rest),*),
        ]
    };
}

/// The statements of the pages over `ix_events_occurred_at`. The arguments are the conditions before the range, the
/// conditions at the ends of the range, the position, and the other arguments of [`pages`].
macro_rules! time_pages {
    ($indexed:expr, $until:expr, $from:expr, $position:expr, $($rest:expr),*) => {
        pages!(
            formatcp!("{}(occurred_at, sequence) > {}{}", $indexed, $position, $until),
            "occurred_at, sequence",
            formatcp!("{}(occurred_at, sequence) < {}{}", $indexed, $position, $from),
            "occurred_at desc, sequence desc",
            $($rest),*
        )
    };
}

/// The statements of the pages over `ix_events_session_id`, for the parameters of session, time and sequence.
macro_rules! session_time_pages {
    ($session:expr, $until:expr, $from:expr, $time:expr, $sequence:expr, $($rest:expr),*) => {{
        const POSITION: &str = formatcp!("({}, {}, {})", $session, $time, $sequence);
        const FORWARDS: &str = formatcp!(
            "session_id is not null
             and (session_id, occurred_at, sequence) > {POSITION}
             and (session_id, occurred_at) < ({session}, {})
             and session_id >= {session} and session_id <= {session}",
            $until,
            session = $session
        );
        const BACKWARDS: &str = formatcp!(
            "session_id is not null
             and (session_id, occurred_at, sequence) < {POSITION}
             and (session_id, occurred_at) >= ({session}, {})
             and session_id >= {session} and session_id <= {session}",
            $from,
            session = $session
        );
        pages!(
            FORWARDS,
            "session_id, occurred_at, sequence",
            BACKWARDS,
            "session_id desc, occurred_at desc, sequence desc",
            $($rest),*
        )
    }};
}

/// The statements of filtered pages, by index, direction and view.
pub(in crate::store) const FILTERED_PAGES: [&str; 12] = {
    const POSITION: &str = "($12, $13)";
    const UNTIL: &str = " and occurred_at < $7";
    const FROM: &str = " and occurred_at >= $6";
    const IN_SESSION: &str =
        formatcp!("sequence <= $14 and occurred_at >= $6 and occurred_at < $7 and {FILTERED}");
    const OTHERS: &str = formatcp!("$2::text is null and {IN_SESSION}");
    const TYPE: &str = "event_type = ($3::text[])[1] and ";
    flat([
        time_pages!("", UNTIL, FROM, POSITION, OTHERS, "$15", "$16"),
        time_pages!(TYPE, UNTIL, FROM, POSITION, OTHERS, "$15", "$16"),
        session_time_pages!("$2", "$7", "$6", "$12", "$13", IN_SESSION, "$15", "$16"),
    ])
};

/// The statements of pages without a filter, in the same order. `$7` is the event type or the session.
pub(in crate::store) const PLAIN_PAGES: [&str; 12] = {
    const POSITION: &str = "($2, $3)";
    const LIVE: &str = "sequence <= $4 and not is_deleted";
    flat([
        time_pages!("", "", "", POSITION, LIVE, "$5", "$6"),
        time_pages!("event_type = $7 and ", "", "", POSITION, LIVE, "$5", "$6"),
        session_time_pages!("$7", "'infinity'", "'-infinity'", "$2", "$3", LIVE, "$5", "$6"),
    ])
};

/// The statements of the pages over `uq_events_sequence`: of a spirit. The arguments are the parameters of the position
/// and of the highest sequence, and the other arguments of [`pages`].
macro_rules! spirit_sequence_pages {
    ($after:expr, $max:expr, $($rest:expr),*) => {
        pages!(
            formatcp!("sequence > {} and sequence <= {}", $after, $max),
            "sequence",
            formatcp!("sequence < {} and sequence <= {}", $after, $max),
            "sequence desc",
            $($rest),*
        )
    };
}

/// The statements of the pages over `ix_events_session_sequence`, for the parameters of session, position and highest
/// sequence.
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
        pages!(
            FORWARDS,
            "session_id, sequence",
            BACKWARDS,
            "session_id desc, sequence desc",
            $($rest),*
        )
    }};
}

/// The statements of filtered pages in sequence order: of a spirit and of a session, by direction and view. `$12` is the
/// time of the position, which has no meaning in this order.
pub(in crate::store) const FILTERED_SEQUENCE_PAGES: [&str; 8] = {
    const IN_SESSION: &str =
        formatcp!("$12::timestamptz is not null and occurred_at >= $6 and occurred_at < $7 and {FILTERED}");
    const OTHERS: &str = formatcp!("$2::text is null and {IN_SESSION}");
    flat([
        spirit_sequence_pages!("$13", "$14", OTHERS, "$15", "$16"),
        session_sequence_pages!("$2", "$13", "$14", IN_SESSION, "$15", "$16"),
    ])
};

/// The statements of pages in sequence order without a filter, in the same order. `$7` is the session.
pub(in crate::store) const PLAIN_SEQUENCE_PAGES: [&str; 8] = {
    const LIVE: &str = "$2::timestamptz is not null and not is_deleted";
    flat([
        spirit_sequence_pages!("$3", "$4", LIVE, "$5", "$6"),
        session_sequence_pages!("$7", "$3", "$4", LIVE, "$5", "$6"),
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
    ($indexed:expr, $order:expr) => {
        formatcp!(
            "select count(*)
             from (
                 select
                 from events
                 where {indexed}
                 and {FILTERED}
                 order by {order}
             ) as selected",
            indexed = $indexed,
            order = $order
        )
    };
}

/// The statements that count events, by index: of a spirit, of an event type, of a session.
pub(in crate::store) const COUNTS: [&str; 3] = [
    count!(IN_SPIRIT, "occurred_at, sequence"),
    count!(IN_EVENT_TYPE, "occurred_at, sequence"),
    count!(IN_SESSION, "session_id, occurred_at, sequence"),
];

/// The statements that read the position of an event of a session, counted from the end: in replay order and in
/// sequence order.
pub(in crate::store) const NTH_FROM_END: [&str; 2] = [
    formatcp!(
        "select occurred_at, sequence
         from events
         where {IN_SESSION}
         and coalesce(sequence <= $12 and {FILTERED}, false)
         order by session_id desc, occurred_at desc, sequence desc
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
