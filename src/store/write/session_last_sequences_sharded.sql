-- Finds the last sequences of these sessions on a distributed database, by a seek each. All spirits are of one shard. The
-- condition on the list selects it; with the list alone, the index would be searched for each spirit of the list and each
-- session.
select wanted.spirit_id, wanted.session_id, last.sequence
from unnest($1::uuid[], $2::text[]) as wanted (spirit_id, session_id)
cross join lateral (
    select events.sequence
    from events
    where events.spirit_id = wanted.spirit_id
    and events.session_id = wanted.session_id collate "C"
    and events.session_id is not null
    and (events.spirit_id = any($1) or events.spirit_id = ($1)[1])
    order by events.spirit_id desc, events.session_id desc, events.sequence desc
    limit 1
) as last
