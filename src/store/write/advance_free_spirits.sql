-- Locks the spirits that are neither locked nor deleted and advances their last sequences by $2. Returns a row
-- for each of these spirits. If $3, nothing is changed unless all the spirits could be locked.
with locked as (
    select id, activity_epoch
    from spirits
    where id = any($1::uuid[])
    and deleted_at is null
    order by id
    for no key update skip locked
)
update spirits
set last_sequence = spirits.last_sequence + gained.events
from locked
join unnest($1::uuid[], $2::bigint[]) as gained (id, events) on gained.id = locked.id
where spirits.id = locked.id
and (not $3::boolean or (select count(*) from locked) = cardinality($1::uuid[]))
returning
    spirits.id, spirits.last_sequence - gained.events as base, now() as now, locked.activity_epoch,
    pg_postmaster_start_time() as server_started_at
