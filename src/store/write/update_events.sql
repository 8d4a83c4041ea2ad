-- Edits events of one spirit ($1), leaving them deleted or live, and records the changes. An event is edited if its
-- revision is the one that was read. The update waits for the lock of the spirit, since it joins it; the newest
-- version of each row is then updated, as it is of the spirit. Only edits that took effect draw a change number.
-- The range of the primary key is a single event. For an equality on the spirit PostgreSQL could choose on an empty
-- table to read all events of the spirit, and a prepared statement would keep that plan.
with spirit as (
    select id
    from spirits
    where id = $1
    for no key update
),
edited as (
    update events
    set meta_summary = edit.meta_summary,
        importance_score = edit.importance_score,
        meta = edit.meta::jsonb,
        role = edit.role,
        author = edit.author,
        revision = events.revision + 1,
        updated_at = now()
    from spirit
    cross join unnest(
        $2::uuid[], $3::bigint[], $4::text[], $5::float8[], $6::text[], $7::text[], $8::text[], $9::text[],
        $10::text[], $11::text[]
    ) with ordinality as edit (
        id, revision, meta_summary, importance_score, meta, role, author, fields, previous, changed_by, ordinal
    )
    where events.id = edit.id
    and (events.id, events.spirit_id) >= (edit.id, $1)
    and (events.id, events.spirit_id) <= (edit.id, $1)
    and events.revision = edit.revision
    returning
        edit.ordinal, events.id, events.sequence, events.meta::text as meta, events.revision, events.updated_at,
        edit.fields, edit.previous, edit.changed_by
),
drawn as (
    update spirits
    set last_change = spirits.last_change + edits.count
    from (select count(*) as count from edited) as edits
    where spirits.id = $1
    and edits.count > 0
    returning spirits.last_change - edits.count as base
),
recorded as (
    insert into changes (
        spirit_id, change, kind, event_id, sequence, fields, previous, revision, changed_at, changed_by
    )
    select
        $1, drawn.base + row_number() over (order by edited.ordinal), 'updated', edited.id, edited.sequence,
        string_to_array(edited.fields, ','), edited.previous::jsonb, edited.revision, edited.updated_at,
        edited.changed_by
    from edited
    cross join drawn
)
select ordinal, meta, revision, updated_at
from edited
