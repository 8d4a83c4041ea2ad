-- The fast path of a flush, in one statement: lock the spirits that are neither locked nor deleted, draw
-- their sequences, insert, record the sessions. Returns a row for each of these spirits; events of other spirits are
-- not stored. If $3, nothing is stored unless all the spirits could be locked. A flush of one spirit that was found
-- locked waits for it instead of skipping it.
-- A dedupe key that is taken violates the unique constraint, and nothing is stored.
--
-- A row lock returns the newest version of the row, whose last_sequence is final under the lock, so the
-- statement needs no second snapshot. It does not find out which event has a taken dedupe key; a full flush
-- does.
--
-- $4 is the activity epoch that the writer expects of each spirit, null if it expects none: sessions whose active
-- minutes it knows to be new enough are not recorded again. A spirit with another epoch, or all of them if PostgreSQL
-- was restarted since ($5), count as locked.
with locked as (
    select id, activity_epoch
    from spirits
    where id = any($1)
    and deleted_at is null
    order by id
    for no key update skip locked
),
free as (
    select locked.id, locked.activity_epoch, gained.events
    from locked
    join unnest($1::uuid[], $2::bigint[], $4::bigint[]) as gained (id, events, activity_epoch)
        on gained.id = locked.id
    where gained.activity_epoch is null
    or (gained.activity_epoch = locked.activity_epoch and pg_postmaster_start_time() = $5)
),
advanced as (
    update spirits
    set last_sequence = spirits.last_sequence + free.events
    from free
    where spirits.id = free.id
    and (not $3 or (select count(*) from free) = cardinality($1))
    returning spirits.id, spirits.last_sequence - free.events as base, free.activity_epoch
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
        $6::uuid[], $7::uuid[], $8::bigint[], $9::text[], $10::text[], $11::text[], $12::timestamptz[],
        $13::text[], $14::text[], $15::text[], $16::text[], $17::text[], $18::text[], $19::float8[]
    ) as new (
        id, spirit_id, ordinal, event_type, meta_summary, content, occurred_at,
        session_id, role, author, meta, source_uri, dedupe_key, importance_score
    ) on new.spirit_id = advanced.id
){activate_sessions}
select id, base, now() as now, activity_epoch, pg_postmaster_start_time() as server_started_at
from advanced
