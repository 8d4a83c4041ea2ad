//! The statements of purges. A step reads a page of candidates, locks the spirit, and removes those that are still
//! selected; each is a statement of its own, since the snapshot of a statement is older than the locks that it waits for.

use const_format::{concatcp, formatcp};

use crate::store::write::deletion_statements::LOWER;

/// Maximum number of events that a step purges, with the former values that it clears.
pub(in crate::store) const STEP_ROWS_MAX: i64 = 1_000;
/// Bytes of values after which a step purges no further event.
pub(in crate::store) const STEP_BYTES: i64 = 8 * 1024 * 1024;

/// Stores a purge of an existing spirit and returns the start.
pub(in crate::store) const START: &str = "
    insert into purges (spirit_id, purge_id, selection, reason, requested_by)
    select id, $2, $3, $4, $5
    from spirits
    where id = $1
    and ($3 <> 'spirit' or deleted_at is not null)
    returning (select last_sequence from spirits where id = $1)";

/// Marks a purge as complete.
pub(in crate::store) const FINISH: &str = "
    update purges
    set finished_at = now()
    where spirit_id = $1
    and purge_id = $2";

/// Waits for the lock of the spirit.
pub(in crate::store) const LOCK: &str = "
    select deleted_at is not null as is_deleted, last_sequence
    from spirits
    where id = $1
    for no key update";

/// Conditions that hold of an event that is still selected: its author, the bound of its deletion, the owner of its
/// session. Everything else that selects events never changes. The owner is read session by session; with `exists`,
/// PostgreSQL may read all sessions of the owner in each step.
macro_rules! still_selected {
    ($author:expr, $deleted_until:expr, $owner:expr) => {
        formatcp!(
            "coalesce(
                 ({author}::text is null or author = {author})
                 and ({deleted_until}::timestamptz is null or is_deleted and deleted_at < {deleted_until})
                 and ({owner}::text is null or {owner} = (
                     select sessions.owner
                     from sessions
                     where sessions.spirit_id = $1
                     and sessions.session_id = events.session_id
                 )),
                 false
             )",
            author = $author,
            deleted_until = $deleted_until,
            owner = $owner,
        )
    };
}

/// Removes the events with sequences `$2` that are still selected.
pub(in crate::store) const PURGE_SELECTED: &str = {
    const SELECTED: &str = still_selected!("$3", "$4", "$5");
    formatcp!(
        "delete from events
         where spirit_id = $1
         and sequence = any($2)
         and {SELECTED}
         returning id, sequence, session_id, occurred_at"
    )
};

/// Removes the events with sequences `$2` that are still selected, clears the former values in their changes, records a
/// change by `$7` and adds the events to purge `$6`. Active minutes may become lower.
pub(in crate::store) const PURGE: &str = {
    const SELECTED: &str = still_selected!("$3", "$4", "$5");
    formatcp!(
        "with purged as (
             delete from events
             where spirit_id = $1
             and sequence = any($2)
             and {SELECTED}
             returning id, sequence, session_id, occurred_at
         ),
         counted as (
             select
                 count(*) as count, min(sequence) as lowest, max(sequence) as highest,
                 array_agg(id order by sequence) as event_ids, array_agg(sequence order by sequence) as sequences
             from purged
         ),
         cleared as (
             update changes
             set previous = null
             from purged
             where changes.event_id = purged.id
             and changes.spirit_id = $1
             and previous_bytes is not null
         ),
         drawn as (
             update spirits
             set last_change = last_change + 1,
                 activity_epoch = activity_epoch + 1
             from counted
             where spirits.id = $1
             and counted.count > 0
             returning last_change
         ),
         recorded as (
             insert into changes (spirit_id, change, kind, event_ids, sequences, fields, changed_at, changed_by)
             select $1, drawn.last_change, 'purged', counted.event_ids, counted.sequences, '{{}}',
                 statement_timestamp(), $7::text
             from drawn
             cross join counted
         ),
         added as (
             update purges
             set purged_count = purged_count + counted.count,
                 lowest_sequence = least(lowest_sequence, counted.lowest),
                 highest_sequence = greatest(highest_sequence, counted.highest)
             from counted
             where purges.spirit_id = $1
             and purges.purge_id = $6
         )
         select counted.count, counted.lowest, counted.highest, sessions.session_ids, sessions.occurred_at
         from counted
         cross join (
             select
                 coalesce(array_agg(session_id), '{{}}') as session_ids,
                 coalesce(array_agg(occurred_at), '{{}}') as occurred_at
             from (
                 select session_id, max(occurred_at) as occurred_at
                 from purged
                 where session_id is not null
                 group by session_id
             ) as sessions
         ) as sessions"
    )
};

/// Clears former values of an event, with sequence `$2`, that has more of them than a step may clear.
pub(in crate::store) const CLEAR_FORMER_VALUES: &str = {
    const SELECTED: &str = still_selected!("$3", "$4", "$5");
    formatcp!(
        "with entries as (
             select changes.change, changes.previous_bytes
             from events
             join changes on changes.event_id = events.id
             and changes.spirit_id = events.spirit_id
             where events.spirit_id = $1
             and events.sequence = $2
             and {SELECTED}
             and changes.previous_bytes is not null
             order by changes.change
             limit {STEP_ROWS_MAX}
         ),
         sized as (
             select change, sum(previous_bytes) over (order by change) - previous_bytes as bytes_before
             from entries
         )
         update changes
         set previous = null
         from sized
         where changes.spirit_id = $1
         and changes.change = sized.change
         and bytes_before <= {STEP_BYTES}"
    )
};

/// Removes those of sessions `$2` that have no event.
pub(in crate::store) const REMOVE_SESSIONS: &str = "
    delete from sessions
    where spirit_id = $1
    and session_id = any($2::text[])
    and not exists (
        select
        from events
        where events.spirit_id = sessions.spirit_id
        and events.session_id = sessions.session_id
    )";

/// Sets the active minutes of sessions `$2` from which a step purged events, the newest of each at times `$3`.
pub(in crate::store) const LOWER_ACTIVE_MINUTES: &str = concatcp!(
    LOWER,
    "
    from unnest($2::text[], $3::timestamptz[]) as purged (session_id, occurred_at)
    where row.spirit_id = $1
    and row.session_id = any($2)
    and row.session_id = purged.session_id
    and row.active_minute <= purged.occurred_at"
);

/// The sessions after id `$2` that a step may remove: their number and the id of the last one.
pub(in crate::store) const WALK_EMPTY_SESSIONS: &str = formatcp!(
    "select count(*) as walked, max(session_id) as last_session_id
     from (
         select session_id
         from sessions
         where spirit_id = $1
         and session_id > $2
         order by spirit_id, session_id
         limit {STEP_ROWS_MAX}
     ) as walked"
);

/// Removes the sessions without events, with owner `$4` if it is given, after id `$2` up to `$3`.
pub(in crate::store) const REMOVE_EMPTY_SESSIONS: &str = "
    delete from sessions
    where spirit_id = $1
    and session_id > $2
    and session_id <= $3
    and coalesce($4::text is null or owner = $4, false)
    and not exists (
        select
        from events
        where events.spirit_id = $1
        and events.session_id = sessions.session_id
    )";

/// The last change after number `$2` that a step may remove: made before `$3`, as are all changes before it.
pub(in crate::store) const WALK_CHANGES: &str = formatcp!(
    "with walked as materialized (
         select change, changed_at, 256 + coalesce(previous_bytes, 0) + 24 * coalesce(cardinality(event_ids), 1) as bytes
         from changes
         where spirit_id = $1
         and change > $2
         order by spirit_id, change
         limit {STEP_ROWS_MAX}
     ),
     old as (
         select change
         from (
             select
                 change, bool_and(changed_at < $3) over (order by change) as is_old,
                 sum(bytes) over (order by change) - bytes as bytes_before
             from walked
         ) as walked
         where is_old
         and bytes_before <= {STEP_BYTES}
     )
     select max(change) as last_change
     from old"
);

/// Removes the changes after number `$2` up to `$3`.
pub(in crate::store) const REMOVE_CHANGES: &str = "
    delete from changes
    where spirit_id = $1
    and change > $2
    and change <= $3";

/// Removes a spirit that has nothing left. Returns no row if it has.
pub(in crate::store) const REMOVE_SPIRIT: &str = "
    delete from spirits
    where id = $1
    and deleted_at is not null
    and not exists (select from events where events.spirit_id = spirits.id)
    and not exists (select from sessions where sessions.spirit_id = spirits.id)
    and not exists (select from changes where changes.spirit_id = spirits.id)
    returning id";

/// Key of the advisory lock of retention, so that one instance works at a time: the ASCII bytes of `elephant`.
const RETENTION_LOCK: i64 = 0x656c_6570_6861_6e74;

/// The spirits with a retention after id `$1`.
pub(in crate::store) const SPIRITS_WITH_RETENTION: &str = "
    select id
    from spirits
    where id > $1
    and (
        retention_max_age is not null
        or retention_deleted_max_age is not null
        or retention_history_max_age is not null
    )
    order by id
    limit 1000";

/// Takes the lock of retention if it is free, and reads the times before which a spirit keeps nothing.
pub(in crate::store) const RETENTION_BOUNDS: &str = formatcp!(
    "select
         pg_try_advisory_xact_lock({RETENTION_LOCK}) as is_alone,
         last_sequence,
         now() - retention_max_age * interval '1 microsecond' as created_until,
         now() - retention_deleted_max_age * interval '1 microsecond' as deleted_until,
         now() - retention_history_max_age * interval '1 microsecond' as changed_until,
         coalesce(retention_scanned_at < now() - interval '1 day', true) as is_scan_due
     from spirits
     where id = $1"
);

/// Adds `$2` events with sequences from `$3` to `$4` to the purge of retention of this day, with id `$5` if it is the first.
pub(in crate::store) const ADD_TO_RETENTION: &str = "
    insert into purges (
        spirit_id, purge_id, selection, requested_by, started_at, finished_at, purged_count, lowest_sequence,
        highest_sequence, retention_day
    )
    values ($1, $5, 'retention', 'retention', now(), now(), $2, $3, $4, (now() at time zone 'UTC')::date)
    on conflict (spirit_id, retention_day) where retention_day is not null do update
    set finished_at = excluded.finished_at,
        purged_count = purges.purged_count + excluded.purged_count,
        lowest_sequence = least(purges.lowest_sequence, excluded.lowest_sequence),
        highest_sequence = greatest(purges.highest_sequence, excluded.highest_sequence)";

/// Records that retention has read all events of a spirit.
pub(in crate::store) const RECORD_SCAN: &str = "
    update spirits
    set retention_scanned_at = now()
    where id = $1";
