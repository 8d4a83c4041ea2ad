-- Retention has one purge for each spirit and day.
create unique index uq_purges_retention_day
    on purges (spirit_id, retention_day)
    where retention_day is not null;
