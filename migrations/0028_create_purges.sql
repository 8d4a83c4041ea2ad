-- Purges: what was removed for good, by whom and why. The rows of purges outlive their spirit: a finished purge with
-- selection 'spirit' means that its spirit must not be made again.
-- Retention has a row for each spirit and day, retention_day.
create table purges (
    spirit_id        uuid        not null,
    purge_id         uuid        not null,
    selection        text        not null collate "C",
    reason           text,
    requested_by     text,
    started_at       timestamptz not null default now(),
    finished_at      timestamptz,
    purged_count     bigint      not null default 0,
    lowest_sequence  bigint,
    highest_sequence bigint,
    retention_day    date,
    constraint pk_purges primary key (spirit_id, purge_id)
);
