-- The fast path of a flush, in one statement: lock the spirits that are neither locked nor deleted, draw
-- their sequences, insert. Returns a row for each of these spirits; events of other spirits are not stored.
-- If $3, nothing is stored unless all the spirits could be locked.
-- A dedupe key that is taken violates the unique constraint, and nothing is stored.
--
-- A row lock returns the newest version of the row, whose last_sequence is final under the lock, so the
-- statement needs no second snapshot. It does not find out which event has a taken dedupe key; a full flush
-- does.
with locked as (
    select id
    from spirits
    where id = any($1)
    and deleted_at is null
    order by id
    for no key update skip locked
),
advanced as (
    update spirits
    set last_sequence = spirits.last_sequence + gained.events
    from locked
    join unnest($1::uuid[], $2::bigint[]) as gained (id, events) on gained.id = locked.id
    where spirits.id = locked.id
    and (not $3 or (select count(*) from locked) = cardinality($1))
    returning spirits.id, spirits.last_sequence - gained.events as base
),
inserted as (
    insert into events (
        id, spirit_id, sequence, event_type, meta_summary, content, occurred_at, session_id,
        role, author, meta, source_uri, dedupe_key, importance_score
    )
    select
        new.id, advanced.id, advanced.base + new.ordinal, new.event_type, new.meta_summary, new.content,
        new.occurred_at, new.session_id, new.role, new.author, new.meta::jsonb, new.source_uri,
        new.dedupe_key, new.importance_score
    from advanced
    join unnest(
        $4::uuid[], $5::uuid[], $6::bigint[], $7::text[], $8::text[], $9::text[], $10::timestamptz[],
        $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[], $17::float8[]
    ) as new (
        id, spirit_id, ordinal, event_type, meta_summary, content, occurred_at,
        session_id, role, author, meta, source_uri, dedupe_key, importance_score
    ) on new.spirit_id = advanced.id
)
select id, base, now() as now
from advanced
