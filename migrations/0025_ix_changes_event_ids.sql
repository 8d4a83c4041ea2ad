-- The steps of bulk changes that an event was part of. Without fastupdate, since a list of pending entries would be
-- read by every search.
create index ix_changes_event_ids
    on changes using gin (event_ids) with (fastupdate = off)
    where event_ids is not null;
