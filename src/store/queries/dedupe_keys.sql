-- Who has these dedupe keys, soft-deleted events included.
select
    events.spirit_id, events.dedupe_key, events.id, events.sequence, events.event_type,
    events.session_id, events.source_uri, events.occurred_at,
    case when wanted.compare then sha256(convert_to(events.content, 'UTF8')) end as content_sha256
from unnest($1::uuid[], $2::text[], $3::boolean[]) as wanted (spirit_id, dedupe_key, compare)
join events on events.spirit_id = wanted.spirit_id and events.dedupe_key = wanted.dedupe_key
