//! The statements that read the pages of walks.

use const_format::formatcp;

use super::statements::STEP_ROWS_MAX;

/// Maximum number of rows that a step reads.
pub(in crate::store) const WALKED_ROWS_MAX: i64 = 10_000;

/// The columns of an event that a walk reads. The lengths of texts are known without reading them.
const WALKED: &str = "id, sequence, session_id, deleted_at, \
     256 + octet_length(content) + meta_bytes + coalesce(octet_length(meta_summary), 0) as bytes";

/// A page of candidates: the first selected rows of `walked`, each with the former values that its changes have. Unless the
/// page is full, also the number of the rows of `walked` and the position of the last one, which have to be read to the end.
/// A page without candidates is one row.
macro_rules! page {
    ($walked:expr, $order:expr) => {
        formatcp!(
            "with candidates as materialized (
                 select *
                 from ({walked}) as walked
                 where is_selected
                 order by {order}
                 limit {STEP_ROWS_MAX}
             ),
             walked as materialized (
                 select *
                 from ({walked}) as walked
                 where (select count(*) from candidates) < {STEP_ROWS_MAX}
             ),
             ends as (
                 select count(*) over () as walked, sequence, deleted_at
                 from walked
                 order by {end_order}
                 limit 1
             )
             select
                 ends.walked, ends.sequence as end_sequence, ends.deleted_at as end_deleted_at, candidates.id,
                 candidates.sequence, candidates.session_id, candidates.deleted_at, candidates.bytes,
                 history.entries, history.entry_bytes
             from (select) as page
             left join ends on true
             left join candidates on true
             left join lateral (
                 select count(*) as entries, coalesce(sum(previous_bytes), 0)::bigint as entry_bytes
                 from (
                     select previous_bytes
                     from changes
                     where event_id = candidates.id
                     and spirit_id = $1
                     and previous_bytes is not null
                     order by event_id, spirit_id, change
                     limit {STEP_ROWS_MAX} + 1
                 ) as former
             ) as history on true
             order by {candidate_order}",
            walked = $walked,
            order = $order.0,
            end_order = $order.1,
            candidate_order = $order.2,
        )
    };
}

const BY_SEQUENCE: (&str, &str, &str) = ("sequence", "sequence desc", "candidates.sequence");
const BY_DELETED_AT: (&str, &str, &str) = (
    "deleted_at, sequence",
    "deleted_at desc, sequence desc",
    "candidates.deleted_at, candidates.sequence",
);
const BY_SESSION: (&str, &str, &str) = (
    "session_id, sequence",
    "session_id desc, sequence desc",
    "candidates.session_id, candidates.sequence",
);

/// A page of the events after sequence `$2` up to `$3`, of author `$4` and created before `$5`.
pub(in crate::store) const WALK_SEQUENCES: &str = page!(
    formatcp!(
        "select {WALKED}, coalesce(($4::text is null or author = $4)
             and ($5::timestamptz is null or created_at < $5), false) as is_selected
         from events
         where spirit_id = $1
         and sequence > $2
         and sequence <= $3
         order by spirit_id, sequence
         limit {WALKED_ROWS_MAX}"
    ),
    BY_SEQUENCE
);

/// A page of the events that were soft-deleted before `$5`, after position (`$4`, `$2`), up to sequence `$3`.
pub(in crate::store) const WALK_DELETED: &str = page!(
    formatcp!(
        "select {WALKED}, sequence <= $3 as is_selected
         from events
         where spirit_id = $1
         and is_deleted
         and (deleted_at, sequence) > ($4::timestamptz, $2::bigint)
         and deleted_at < $5
         order by spirit_id, deleted_at, sequence
         limit {WALKED_ROWS_MAX}"
    ),
    BY_DELETED_AT
);

/// A page of the events of sessions `$4`, after sequence `$2` in session `$5`, up to sequence `$3`.
pub(in crate::store) const WALK_SESSIONS: &str = page!(
    formatcp!(
        "select found.*, true as is_selected
         from unnest($4::text[]) as wanted (session_id)
         cross join lateral (
             select {WALKED}
             from events
             where spirit_id = $1
             and session_id is not null
             and (session_id, sequence) > (
                 wanted.session_id, case when wanted.session_id = $5 collate \"C\" then $2::bigint else 0 end
             )
             and (session_id, sequence) <= (wanted.session_id, $3::bigint)
             order by spirit_id, session_id, sequence
             limit {STEP_ROWS_MAX}
         ) as found"
    ),
    BY_SESSION
);

/// A page of events `$4`, after sequence `$2` up to `$3`.
pub(in crate::store) const WALK_IDS: &str = page!(
    formatcp!(
        "select {WALKED}, true as is_selected
         from events
         where id = any($4::uuid[])
         and spirit_id = $1
         and coalesce(sequence > $2 and sequence <= $3, false)"
    ),
    BY_SEQUENCE
);

/// The sessions with owner `$3` among those after id `$2`.
pub(in crate::store) const WALK_OWNER: &str = formatcp!(
    "with walked as materialized (
         select session_id, owner
         from sessions
         where spirit_id = $1
         and session_id > $2
         order by spirit_id, session_id
         limit {WALKED_ROWS_MAX}
     )
     select count(*) as walked, max(session_id) as last_session_id,
         coalesce(array_agg(session_id order by session_id) filter (where owner = $3), '{{}}') as session_ids
     from walked"
);
