-- Spirits: the agents that own events.
-- The row is updated by every flush of new events (last_sequence), so half of each page is left
-- free and nothing that moves is indexed: the update stays heap-only (HOT).
-- name_folded is the name after Unicode case folding, made by the service, so that matching does
-- not depend on the database's locale.
create table spirits (
    id            uuid        not null,
    name          text        not null,
    name_folded   text        not null collate "C",
    description   text,
    meta          jsonb       not null default '{}',
    last_sequence bigint      not null default 0,
    revision      bigint      not null default 1,
    deleted_at    timestamptz,
    created_at    timestamptz not null default now(),
    updated_at    timestamptz not null default now(),
    constraint pk_spirits primary key (id),
    constraint ck_spirits_last_sequence check (last_sequence >= 0)
) with (fillfactor = 50);
