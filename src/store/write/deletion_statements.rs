//! The statements of soft deletes and restores. Each runs in a transaction that has locked the spirit by an earlier
//! statement, so that it reads the newest state of the spirit and its events.

use const_format::{concatcp, formatcp};

use super::session_activity::RAISE_ACTIVE_MINUTE;
use crate::domain::limits::CHANGE_EVENTS_MAX;
use crate::store::pg::rows::{BASIC_COLUMNS, FULL_COLUMNS};
use crate::store::read::event_pages::FILTERED;
use crate::store::read::session_pages::LAST_LIVE_EVENT;

/// Waits for the lock of the spirit and returns its last sequence. Creates of the spirit wait meanwhile.
pub(in crate::store) const LOCK_SPIRIT: &str = "
    select last_sequence
    from spirits
    where id = any($1::uuid[])
    for no key update";

/// The time of a deletion, which no other deletion of the spirit has.
pub(super) const DELETED_AT: &str =
    "greatest(statement_timestamp(), last_deleted_at + interval '1 microsecond')";

/// Columns of an event that was changed.
const EVENT_NAMES: &str = formatcp!("{BASIC_COLUMNS}, content, meta");

/// Changes an event, soft-deletes or restores it, and records the change.
macro_rules! change_event {
    ($draw:expr, $deletion:expr, $kind:expr) => {
        formatcp!(
            "with drawn as ({draw}),
             edited as (
                 update events
                 set meta_summary = $4,
                     importance_score = $5,
                     meta = $6::jsonb,
                     role = $7,
                     author = $8,
                     {deletion},
                     revision = revision + 1
                 from drawn
                 where id = $2
                 and spirit_id = $1
                 and (id, spirit_id) >= ($2, $1)
                 and revision = $3
                 returning {BASIC_COLUMNS}, {FULL_COLUMNS}
             ),
             recorded as (
                 insert into changes (
                     spirit_id, change, kind, event_id, sequence, fields, previous, revision, changed_at, changed_by
                 )
                 select
                     edited.spirit_id, drawn.last_change, '{kind}', edited.id, edited.sequence, $9::text[],
                     $10::jsonb, edited.revision, edited.updated_at, $11::text
                 from edited
                 cross join drawn
             )
             select {EVENT_NAMES}
             from edited",
            draw = $draw,
            deletion = $deletion,
            kind = $kind,
        )
    };
}

/// Changes an event and soft-deletes it. Active minutes may become lower.
pub(in crate::store) const DELETE_EVENT: &str = change_event!(
    formatcp!(
        "update spirits
         set activity_epoch = activity_epoch + 1,
             last_deleted_at = {DELETED_AT},
             last_change = last_change + 1
         where id = $1
         returning last_deleted_at, last_change"
    ),
    "is_deleted = true, deleted_at = drawn.last_deleted_at, updated_at = drawn.last_deleted_at",
    "deleted"
);

/// Changes an event and restores it.
pub(in crate::store) const RESTORE_EVENT: &str = change_event!(
    "update spirits
     set last_change = last_change + 1
     where id = $1
     returning last_change",
    "is_deleted = false, deleted_at = null, updated_at = statement_timestamp()",
    "restored"
);

/// Sets the active minute of the session `row`. The search for it starts at the old one.
pub(in crate::store) const LOWER: &str = formatcp!(
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
pub(super) const SELECTED: [&str; 3] = [
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

/// Records a change of many events, those of `changed`, in steps with a change number each. Draws the numbers and sets
/// other columns of the spirit with them.
macro_rules! recorded {
    ($other_columns:expr, $kind:expr, $changed_by:expr) => {
        formatcp!(
            "steps as (
                 select
                     step, array_agg(id order by sequence) as event_ids,
                     array_agg(sequence order by sequence) as sequences, max(updated_at) as changed_at
                 from (
                     select
                         id, sequence, updated_at,
                         (row_number() over (order by sequence) - 1) / {CHANGE_EVENTS_MAX} as step
                     from changed
                 ) as numbered
                 group by step
             ),
             drawn as (
                 update spirits
                 set {other_columns}
                     last_change = spirits.last_change + drawn.count
                 from (select count(*) as count from steps) as drawn
                 where spirits.id = $1
                 and drawn.count > 0
                 returning spirits.last_change - drawn.count + 1 as first_change
             ),
             recorded as (
                 insert into changes (
                     spirit_id, change, kind, event_ids, sequences, fields, changed_at, changed_by
                 )
                 select
                     $1, drawn.first_change + steps.step, '{kind}', steps.event_ids, steps.sequences,
                     array['is_deleted'], steps.changed_at, {changed_by}::text
                 from steps
                 cross join drawn
             )",
            other_columns = $other_columns,
            kind = $kind,
            changed_by = $changed_by,
        )
    };
}

macro_rules! delete_events {
    ($index:expr) => {{
        const SELECTED_EVENTS: &str = SELECTED[$index];
        const RECORDED: &str = recorded!(
            "activity_epoch = activity_epoch + 1,
             last_deleted_at = (select deleted_at from deletion),",
            "deleted",
            "$13"
        );
        formatcp!(
            "with deletion as (
                 select {DELETED_AT} as deleted_at
                 from spirits
                 where id = $1
             ),
             changed as (
                 update events
                 set is_deleted = true,
                     deleted_at = deletion.deleted_at,
                     revision = revision + 1,
                     updated_at = deletion.deleted_at
                 from deletion
                 where {SELECTED_EVENTS}
                 returning events.id, events.sequence, events.updated_at
             ),
             {RECORDED}
             select count(*), max(updated_at)
             from changed"
        )
    }};
}

/// Counts the selected events, up to `$13`.
pub(in crate::store) const COUNT_SELECTED: [&str; 3] =
    [count_selected!(0), count_selected!(1), count_selected!(2)];

/// Soft-deletes the selected events. Returns their number and the time of the deletion.
pub(in crate::store) const DELETE_EVENTS: [&str; 3] =
    [delete_events!(0), delete_events!(1), delete_events!(2)];

/// Restores the events that a deletion marked, records the change, and raises the active minutes of their sessions. Returns
/// the number of events.
pub(in crate::store) const RESTORE_EVENTS: &str = {
    const RECORDED: &str = recorded!("", "restored", "$4");
    formatcp!(
        "with changed as (
             update events
             set is_deleted = false,
                 deleted_at = null,
                 revision = revision + 1,
                 updated_at = statement_timestamp()
             where spirit_id = $1
             and is_deleted
             and deleted_at = $2
             and ($3::text is null or session_id = $3)
             returning id, sequence, updated_at, session_id, occurred_at
         ),
         {RECORDED},
         activated as (
             insert into sessions (spirit_id, session_id, active_minute)
             select $1, session_id, date_trunc('minute', max(occurred_at), 'UTC')
             from changed
             where session_id is not null
             group by session_id
             {RAISE_ACTIVE_MINUTE}
         )
         select count(*)
         from changed"
    )
};
