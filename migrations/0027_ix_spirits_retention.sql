-- The spirits with a retention.
create index ix_spirits_retention
    on spirits (id)
    where retention_max_age is not null
    or retention_deleted_max_age is not null
    or retention_history_max_age is not null;
