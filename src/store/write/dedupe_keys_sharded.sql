-- Finds the events that have these dedupe keys, soft-deleted ones included, on a distributed database. All spirits are of
-- one shard. The last condition selects it; with a list alone, the index would be searched for each spirit of the list and
-- each key.
select
    holder.spirit_id, holder.dedupe_key, holder.id, holder.sequence, holder.event_type,
    holder.session_id, holder.source_uri, holder.occurred_at,
    sha256(convert_to(holder.content, 'UTF8')) as content_sha256
from unnest($1::uuid[], $2::text[]) as wanted (spirit_id, dedupe_key)
join events as holder
    on holder.spirit_id = wanted.spirit_id
    and holder.dedupe_key = wanted.dedupe_key collate "C"
where (holder.spirit_id = any($1) or holder.spirit_id = ($1)[1])
