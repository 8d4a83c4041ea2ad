-- Finds the last sequences of these sessions. Each lookup is an index seek: the last entry at or before the end of the
-- session in the order of its index, an order that no other index has. For an equality alone, and without statistics,
-- PostgreSQL might read the events of the spirit backwards, and a prepared statement would keep that plan.
select wanted.spirit_id, wanted.session_id, last.sequence
from unnest($1::uuid[], $2::text[]) as wanted (spirit_id, session_id)
cross join lateral (
    select events.spirit_id, events.session_id, events.sequence
    from events
    where (events.spirit_id, events.session_id, events.sequence)
        <= (wanted.spirit_id, wanted.session_id collate "C", 9223372036854775807)
    and events.session_id is not null
    order by events.spirit_id desc, events.session_id desc, events.sequence desc
    limit 1
) as last
where last.spirit_id = wanted.spirit_id
and last.session_id = wanted.session_id collate "C"
