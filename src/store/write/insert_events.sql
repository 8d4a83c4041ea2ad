-- Inserts the admitted events of a flush. The join with the locked spirits routes the statement on a distributed
-- database and costs little elsewhere. There the time of the events is a parameter, since the transaction has another time
-- on each machine.
insert into events (
    id, spirit_id, sequence, event_type, meta_summary, content, occurred_at, session_id,
    role, author, meta, source_uri, dedupe_key, importance_score{time_columns}
)
select
    new.id, spirits.id, new.sequence, new.event_type, new.meta_summary, new.content,
    new.occurred_at, new.session_id, new.role, new.author, new.meta::jsonb, new.source_uri,
    new.dedupe_key, new.importance_score{times}
from spirits
join unnest(
    $2::uuid[], $3::uuid[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::timestamptz[],
    $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::float8[]
) as new (
    id, spirit_id, sequence, event_type, meta_summary, content, occurred_at,
    session_id, role, author, meta, source_uri, dedupe_key, importance_score
) on new.spirit_id = spirits.id
where spirits.id = any($1)
