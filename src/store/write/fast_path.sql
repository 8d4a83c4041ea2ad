-- A flush that has nothing to decide, in one statement: lock the spirits that are free and live, draw
-- their sequences, insert. Gives a row for each of them; what belongs to other spirits is not stored, nor
-- is anything if $3 and some of them are not free and live.
-- A dedupe key that is taken violates its constraint, which undoes everything.
--
-- The lock gives the newest version of a row, and under it last_sequence is final. So what is stored is
-- right without a second snapshot; who has a taken key is not known, which the full flush finds out.
with free as (
    select id
    from spirits
    where id = any($1)
    and deleted_at is null
    order by id
    for no key update skip locked
),
moved as (
    update spirits
    set last_sequence = spirits.last_sequence + gained.events
    from free
    join unnest($1::uuid[], $2::bigint[]) as gained (id, events) on gained.id = free.id
    where spirits.id = free.id
    and (not $3 or (select count(*) from free) = cardinality($1))
    returning spirits.id, spirits.last_sequence - gained.events as base
),
stored as (
    insert into events (
        id, spirit_id, sequence, event_type, meta_summary, content, occurred_at, session_id,
        role, author, meta, source_uri, dedupe_key, importance_score
    )
    select
        new.id, moved.id, moved.base + new.ordinal, new.event_type, new.meta_summary, new.content,
        new.occurred_at, new.session_id, new.role, new.author, new.meta::jsonb, new.source_uri,
        new.dedupe_key, new.importance_score
    from moved
    join unnest(
        $4::uuid[], $5::uuid[], $6::bigint[], $7::text[], $8::text[], $9::text[], $10::timestamptz[],
        $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[], $17::float8[]
    ) as new (
        id, spirit_id, ordinal, event_type, meta_summary, content, occurred_at,
        session_id, role, author, meta, source_uri, dedupe_key, importance_score
    ) on new.spirit_id = moved.id
)
select id, base, now() as now
from moved
