-- activity_epoch changes whenever an active_minute of the spirit's sessions may have become lower; null until the
-- sessions of events that were stored before this migration have been recorded.
-- last_deleted_at is the newest deleted_at of the spirit's events, which makes each deletion's time unique.
alter table spirits
    add column activity_epoch bigint,
    add column last_deleted_at timestamptz;
