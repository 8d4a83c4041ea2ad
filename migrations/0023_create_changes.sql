-- Changes of events, numbered per spirit in commit order without gaps: each edit, soft delete and restore.
-- The change of one event has event_id and sequence; a step of a bulk change has up to 1,000 of them in arrays.
-- previous has the former values of the fields of one event. previous_bytes is the length of its text, as returned,
-- since the column's size is that of the compressed value.
create table changes (
    spirit_id      uuid        not null,
    change         bigint      not null,
    kind           text        not null collate "C",
    event_id       uuid,
    sequence       bigint,
    event_ids      uuid[],
    sequences      bigint[],
    fields         text[]      not null,
    previous       jsonb,
    previous_bytes integer     generated always as (octet_length(previous::text)) stored,
    revision       bigint      not null default 0,
    changed_at     timestamptz not null,
    changed_by     text,
    constraint pk_changes primary key (spirit_id, change),
    constraint ck_changes_change check (change > 0),
    constraint ck_changes_events check (
        (event_id is null) = (event_ids is not null)
        and (sequence is null) = (sequences is not null)
    )
);
