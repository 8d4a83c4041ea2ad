//! The statements of changes on a distributed database. Each names the spirit by its parameter `$1` and changes one table,
//! so that Citus sends it to one worker as it is. Times are parameters, since Citus refuses some uses of the clock in
//! updates.

use const_format::formatcp;

use crate::store::pg::rows::{BASIC_COLUMNS, FULL_COLUMNS};
use crate::store::write::deletion_statements::{DELETED_AT, SELECTED};

/// The time of a change, and the time of a deletion, which no other deletion of the spirit has.
pub(in crate::store) const TIMES: &str = formatcp!(
    "select statement_timestamp() as now, {DELETED_AT} as deleted_at
     from spirits
     where id = $1"
);

/// Draws `$2` change numbers and returns the last one.
pub(in crate::store) const DRAW: &str = "
    update spirits
    set last_change = last_change + $2
    where id = $1
    returning last_change";

/// [`DRAW`] for a change after which active minutes may be lower.
pub(in crate::store) const DRAW_LOWERING: &str = "
    update spirits
    set last_change = last_change + $2,
        activity_epoch = activity_epoch + 1
    where id = $1
    returning last_change";

/// [`DRAW_LOWERING`] for a deletion at `$3`.
pub(in crate::store) const DRAW_DELETED: &str = "
    update spirits
    set last_change = last_change + $2,
        activity_epoch = activity_epoch + 1,
        last_deleted_at = $3
    where id = $1
    returning last_change";

/// Records changes of one event each, of kind `$2` at `$3`.
pub(in crate::store) const RECORD_EACH: &str = "
    insert into changes (
        spirit_id, change, kind, event_id, sequence, fields, previous, revision, changed_at, changed_by
    )
    select
        spirits.id, new.change, $2, new.event_id, new.sequence, string_to_array(new.fields, ','),
        new.previous::jsonb, new.revision, $3::timestamptz, new.changed_by
    from spirits
    cross join unnest(
        $4::bigint[], $5::uuid[], $6::bigint[], $7::text[], $8::text[], $9::bigint[], $10::text[]
    ) as new (change, event_id, sequence, fields, previous, revision, changed_by)
    where spirits.id = $1";

/// Records a change of several events.
pub(in crate::store) const RECORD_STEP: &str = "
    insert into changes (spirit_id, change, kind, event_ids, sequences, fields, changed_at, changed_by)
    values ($1, $2, $3, $4::uuid[], $5::bigint[], $6::text[], $7, $8)";

/// Edits events at `$12`, leaving them deleted or live. An event is edited if its revision is the one that was read.
pub(in crate::store) const UPDATE_EVENTS: &str = "
    update events
    set meta_summary = edit.meta_summary,
        importance_score = edit.importance_score,
        meta = edit.meta::jsonb,
        role = edit.role,
        author = edit.author,
        revision = events.revision + 1,
        updated_at = $12::timestamptz
    from unnest(
        $2::uuid[], $3::bigint[], $4::text[], $5::float8[], $6::text[], $7::text[], $8::text[], $9::text[],
        $10::text[], $11::text[]
    ) with ordinality as edit (
        id, revision, meta_summary, importance_score, meta, role, author, fields, previous, changed_by, ordinal
    )
    where events.spirit_id = $1
    and events.id = any($2)
    and events.id = edit.id
    and events.revision = edit.revision
    returning
        edit.ordinal, events.meta::text as meta, events.revision, events.updated_at, events.id, events.sequence,
        edit.fields, edit.previous, edit.changed_by";

/// Changes an event at `$9`, and soft-deletes it at `$10` or restores it.
pub(in crate::store) const CHANGE_DELETION: &str = formatcp!(
    "update events
     set meta_summary = $4,
         importance_score = $5,
         meta = $6::jsonb,
         role = $7,
         author = $8,
         is_deleted = $10::timestamptz is not null,
         deleted_at = $10::timestamptz,
         updated_at = $9,
         revision = revision + 1
     where spirit_id = $1
     and id = $2
     and revision = $3
     returning {BASIC_COLUMNS}, {FULL_COLUMNS}"
);

macro_rules! delete_events {
    ($index:expr) => {{
        const SELECTED_EVENTS: &str = SELECTED[$index];
        formatcp!(
            "update events
             set is_deleted = true,
                 deleted_at = $13::timestamptz,
                 revision = revision + 1,
                 updated_at = $13::timestamptz
             where {SELECTED_EVENTS}
             returning id, sequence"
        )
    }};
}

/// Soft-deletes the selected events at `$13`.
pub(in crate::store) const DELETE_EVENTS: [&str; 3] =
    [delete_events!(0), delete_events!(1), delete_events!(2)];

/// Restores at `$4` the events that a deletion marked.
pub(in crate::store) const RESTORE_EVENTS: &str = "
    update events
    set is_deleted = false,
        deleted_at = null,
        revision = revision + 1,
        updated_at = $4
    where spirit_id = $1
    and is_deleted
    and deleted_at = $2
    and ($3::text is null or session_id = $3)
    returning id, sequence, session_id, occurred_at";
