-- Finds the distinct session ids by a loose index scan of ix_events_session_id and the last event of each
-- that is not soft-deleted, then orders and cuts the page. Events are counted for the sessions of the page
-- only. The last sequence is a seek of ix_events_session_sequence, as in session_last_sequences.sql.
with recursive session_ids as (
    (
        select session_id
        from events
        where spirit_id = $1
        and session_id is not null
        order by session_id
        limit 1
    )
    union all
    select (
        select events.session_id
        from events
        where events.spirit_id = $1
        and events.session_id > session_ids.session_id
        order by events.session_id
        limit 1
    )
    from session_ids
    where session_ids.session_id is not null
),
page as (
    select session_ids.session_id, last.occurred_at as last_occurred_at
    from session_ids
    cross join lateral (
        select events.occurred_at
        from events
        where events.spirit_id = $1
        and events.session_id = session_ids.session_id
        and not events.is_deleted
        order by events.occurred_at desc, events.sequence desc
        limit 1
    ) as last
    where session_ids.session_id is not null
    and (
        last.occurred_at < $2
        or (last.occurred_at = $2 and session_ids.session_id > $3 collate "C")
    )
    order by last.occurred_at desc, session_ids.session_id
    limit $4
)
select
    page.session_id, figures.event_count, figures.first_occurred_at, page.last_occurred_at,
    last.sequence as last_sequence
from page
cross join lateral (
    select count(*) as event_count, min(events.occurred_at) as first_occurred_at
    from events
    where events.spirit_id = $1
    and events.session_id = page.session_id
    and not events.is_deleted
) as figures
cross join lateral (
    select events.sequence
    from events
    where (events.spirit_id, events.session_id, events.sequence)
        <= ($1, page.session_id, 9223372036854775807)
    and events.session_id is not null
    order by events.spirit_id desc, events.session_id desc, events.sequence desc
    limit 1
) as last
order by page.last_occurred_at desc, page.session_id
