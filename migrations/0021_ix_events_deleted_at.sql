-- The events that one deletion took.
create index ix_events_deleted_at
    on events (spirit_id, deleted_at, sequence)
    where is_deleted;
