//! The statements of soft deletes and restores.

use const_format::{concatcp, formatcp};

use super::session_activity::RAISE_ACTIVE_MINUTE;
use crate::store::pg::rows::{BASIC_COLUMNS, FULL_COLUMNS};
use crate::store::read::event_pages::FILTERED;
use crate::store::read::session_pages::LAST_LIVE_EVENT;

/// Waits for the lock of the spirit and returns its last sequence. Creates of the spirit wait meanwhile.
pub(in crate::store) const LOCK_SPIRIT: &str = "
    select last_sequence
    from spirits
    where id = any($1::uuid[])
    for no key update";

/// Draws the time of a deletion, which no other deletion of the spirit has. Active minutes may become lower.
const DRAW_DELETED_AT: &str = "
    update spirits
    set activity_epoch = activity_epoch + 1,
        last_deleted_at = greatest(statement_timestamp(), last_deleted_at + interval '1 microsecond')
    where id = $1
    returning last_deleted_at";

/// Changes an event and soft-deletes it.
pub(in crate::store) const DELETE_EVENT: &str = formatcp!(
    "with deletion as ({DRAW_DELETED_AT})
     update events
     set meta_summary = $4,
         importance_score = $5,
         meta = $6::jsonb,
         role = $7,
         author = $8,
         is_deleted = true,
         deleted_at = deletion.last_deleted_at,
         revision = revision + 1,
         updated_at = deletion.last_deleted_at
     from deletion
     where id = $2
     and spirit_id = $1
     and (id, spirit_id) >= ($2, $1)
     and revision = $3
     returning {BASIC_COLUMNS}, {FULL_COLUMNS}"
);

/// Changes an event and restores it.
pub(in crate::store) const RESTORE_EVENT: &str = formatcp!(
    "update events
     set meta_summary = $4,
         importance_score = $5,
         meta = $6::jsonb,
         role = $7,
         author = $8,
         is_deleted = false,
         deleted_at = null,
         revision = revision + 1,
         updated_at = statement_timestamp()
     where id = $2
     and spirit_id = $1
     and (id, spirit_id) >= ($2, $1)
     and revision = $3
     returning {BASIC_COLUMNS}, {FULL_COLUMNS}"
);

/// Sets the active minute of the session `row`. The search for it starts at the old one.
const LOWER: &str = formatcp!(
    "update sessions as row
     set active_minute = (
         select date_trunc('minute', last.occurred_at, 'UTC')
         from ({LAST_LIVE_EVENT}) as last
     )"
);

/// Sets the active minute of the session in which a deletion marked events.
pub(in crate::store) const LOWER_ACTIVE_MINUTE: &str = concatcp!(
    LOWER,
    "
    where row.spirit_id = $1
    and row.session_id = $2
    and row.active_minute is not null"
);

/// Sets the active minutes of all sessions in which the deletion at time `$2` marked events.
pub(in crate::store) const LOWER_ACTIVE_MINUTES: &str = concatcp!(
    LOWER,
    "
    from (
        select session_id, max(occurred_at) as occurred_at
        from (
            select session_id, occurred_at
            from events
            where spirit_id = $1
            and is_deleted
            and deleted_at = $2
            order by sequence
            offset 0
        ) as events
        where session_id is not null
        group by session_id
    ) as deleted
    where row.spirit_id = $1
    and row.session_id = deleted.session_id
    and row.active_minute <= deleted.occurred_at"
);

/// The live events above sequence `$12` of a selection: by sequence, of a session, by time.
const SELECTED: [&str; 3] = [
    formatcp!(
        "spirit_id = $1
         and sequence > $12
         and coalesce(
             $2::text is null and occurred_at >= $6 and occurred_at < $7 and {FILTERED} and not is_deleted, false
         )"
    ),
    formatcp!(
        "spirit_id = $1
         and session_id is not null
         and (session_id, sequence) > ($2, $12::bigint)
         and (session_id, sequence) <= ($2, 9223372036854775807)
         and coalesce(occurred_at >= $6 and occurred_at < $7 and {FILTERED} and not is_deleted, false)"
    ),
    formatcp!(
        "spirit_id = $1
         and occurred_at >= $6
         and occurred_at < $7
         and coalesce($2::text is null and sequence > $12 and {FILTERED} and not is_deleted, false)"
    ),
];

macro_rules! count_selected {
    ($index:expr) => {{
        const SELECTED_EVENTS: &str = SELECTED[$index];
        formatcp!(
            "select count(*)
             from (
                 select
                 from events
                 where {SELECTED_EVENTS}
                 limit (select $13::bigint)
             ) as selected"
        )
    }};
}

macro_rules! delete_events {
    ($index:expr) => {{
        const SELECTED_EVENTS: &str = SELECTED[$index];
        formatcp!(
            "with deletion as ({DRAW_DELETED_AT}),
             deleted as (
                 update events
                 set is_deleted = true,
                     deleted_at = deletion.last_deleted_at,
                     revision = revision + 1,
                     updated_at = deletion.last_deleted_at
                 from deletion
                 where {SELECTED_EVENTS}
                 returning events.deleted_at
             )
             select count(*), max(deleted_at)
             from deleted"
        )
    }};
}

/// Counts the selected events, up to `$13`.
pub(in crate::store) const COUNT_SELECTED: [&str; 3] =
    [count_selected!(0), count_selected!(1), count_selected!(2)];

/// Soft-deletes the selected events. Returns their number and the time of the deletion.
pub(in crate::store) const DELETE_EVENTS: [&str; 3] =
    [delete_events!(0), delete_events!(1), delete_events!(2)];

/// Restores the events that a deletion marked, and raises the active minutes of their sessions. Returns their number.
pub(in crate::store) const RESTORE_EVENTS: &str = concatcp!(
    "with restored as (
         update events
         set is_deleted = false,
             deleted_at = null,
             revision = revision + 1,
             updated_at = statement_timestamp()
         where spirit_id = $1
         and is_deleted
         and deleted_at = $2
         and ($3::text is null or session_id = $3)
         returning session_id, occurred_at
     ),
     activated as (
         insert into sessions (spirit_id, session_id, active_minute)
         select $1, session_id, date_trunc('minute', max(occurred_at), 'UTC')
         from restored
         where session_id is not null
         group by session_id",
    RAISE_ACTIVE_MINUTE,
    ")
     select count(*)
     from restored"
);
