-- ListSpirits, newest first.
create index ix_spirits_created_at on spirits (created_at, id);
