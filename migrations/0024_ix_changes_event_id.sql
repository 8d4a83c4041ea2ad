-- The changes of one event, without the steps of bulk changes.
create index ix_changes_event_id
    on changes (event_id, spirit_id, change)
    where event_id is not null;
