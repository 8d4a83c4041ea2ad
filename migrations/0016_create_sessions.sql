-- Sessions: a row for each session that has events or properties.
-- active_minute is the minute (UTC) of the newest occurred_at among the session's events that are not soft-deleted;
-- null if there is none. It is exact after every commit. Creates change it only when their minute is newer, so a busy
-- session costs one update a minute.
create table sessions (
    spirit_id     uuid        not null,
    session_id    text        not null collate "C",
    active_minute timestamptz,
    title         text,
    title_folded  text        collate "C",
    owner         text        collate "C",
    meta          jsonb,
    revision      bigint      not null default 0,
    updated_at    timestamptz,
    constraint pk_sessions primary key (spirit_id, session_id),
    constraint ck_sessions_revision check (revision >= 0)
) with (fillfactor = 80);
