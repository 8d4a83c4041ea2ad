-- How long the spirit's data is kept, in microseconds; null = for good. Of events by created_at and by deleted_at, and of
-- changes by changed_at.
-- retention_scanned_at is when retention last read all events of the spirit by sequence.
alter table spirits
    add column retention_max_age bigint,
    add column retention_deleted_max_age bigint,
    add column retention_history_max_age bigint,
    add column retention_scanned_at timestamptz;
