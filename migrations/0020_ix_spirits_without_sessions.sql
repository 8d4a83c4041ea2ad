-- The spirits whose sessions have not been recorded yet.
create index ix_spirits_without_sessions
    on spirits (id)
    where activity_epoch is null;
