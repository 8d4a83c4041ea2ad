-- Finds the events that have these dedupe keys, soft-deleted ones included. Each lookup is an index seek:
-- the first key at or after the wanted one in the order of its index, an order that no other index has. For
-- an equality alone, and without statistics, PostgreSQL might choose to read all events of a spirit, and a
-- prepared statement would keep that plan.
select
    holder.spirit_id, holder.dedupe_key, holder.id, holder.sequence, holder.event_type,
    holder.session_id, holder.source_uri, holder.occurred_at,
    sha256(convert_to(holder.content, 'UTF8')) as content_sha256
from unnest($1::uuid[], $2::text[]) as wanted (spirit_id, dedupe_key)
cross join lateral (
    select
        events.spirit_id, events.dedupe_key, events.id, events.sequence, events.event_type,
        events.session_id, events.source_uri, events.occurred_at, events.content
    from events
    where (events.spirit_id, events.dedupe_key) >= (wanted.spirit_id, wanted.dedupe_key collate "C")
    and events.dedupe_key is not null
    order by events.spirit_id, events.dedupe_key
    limit 1
) as holder
where holder.spirit_id = wanted.spirit_id
and holder.dedupe_key = wanted.dedupe_key collate "C"
