-- ListPurges over all spirits, newest first.
create index ix_purges_started_at on purges (started_at, purge_id);
