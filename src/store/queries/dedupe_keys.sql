-- Who has these dedupe keys, soft-deleted events included. The limit keeps the join a look-up a key,
-- whatever the planner knows of the table.
select
    holder.spirit_id, holder.dedupe_key, holder.id, holder.sequence, holder.event_type,
    holder.session_id, holder.source_uri, holder.occurred_at,
    case when wanted.compare then sha256(convert_to(holder.content, 'UTF8')) end as content_sha256
from unnest($1::uuid[], $2::text[], $3::boolean[]) as wanted (spirit_id, dedupe_key, compare)
cross join lateral (
    select
        events.spirit_id, events.dedupe_key, events.id, events.sequence, events.event_type,
        events.session_id, events.source_uri, events.occurred_at, events.content
    from events
    where events.spirit_id = wanted.spirit_id
    and events.dedupe_key = wanted.dedupe_key
    limit 1
) as holder
