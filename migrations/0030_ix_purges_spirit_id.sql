-- ListPurges of one spirit, newest first.
create index ix_purges_spirit_id on purges (spirit_id, started_at, purge_id);
