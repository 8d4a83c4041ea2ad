-- A flush of one event without a guard, in one statement: lock, draw the sequence, insert. Gives no row
-- where the full flush has to decide: the spirit is unknown, deleted or held by somebody else, or the
-- key is taken. A key that is taken while this runs violates its constraint, which undoes everything.
with spirit as (
    select id
    from spirits
    where id = $2
    and deleted_at is null
    and not exists (select from events where events.spirit_id = $2 and events.dedupe_key = $12)
    for no key update skip locked
),
moved as (
    update spirits
    set last_sequence = spirits.last_sequence + 1
    from spirit
    where spirits.id = spirit.id
    returning spirits.id, spirits.last_sequence
)
insert into events (
    id, spirit_id, sequence, event_type, meta_summary, content, occurred_at, session_id,
    role, author, meta, source_uri, dedupe_key, importance_score
)
select
    $1, moved.id, moved.last_sequence, $3, $4, $5, $6, $7,
    $8, $9, $10::jsonb, $11, $12, $13
from moved
returning sequence, created_at
