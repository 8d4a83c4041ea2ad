-- Events: stored once, never removed, numbered per spirit in commit order.
-- Every key contains spirit_id, so that the same table can be distributed by it.
-- meta_summary stands before content: a summary-only read need not touch the long value.
create table events (
    id               uuid             not null,
    spirit_id        uuid             not null,
    sequence         bigint           not null,
    event_type       text             not null collate "C",
    meta_summary     text,
    content          text             not null,
    occurred_at      timestamptz      not null,
    session_id       text             collate "C",
    role             text             collate "C",
    author           text,
    meta             jsonb            not null default '{}',
    source_uri       text,
    dedupe_key       text             collate "C",
    importance_score double precision,
    revision         bigint           not null default 1,
    is_deleted       boolean          not null default false,
    deleted_at       timestamptz,
    created_at       timestamptz      not null default now(),
    updated_at       timestamptz      not null default now(),
    constraint pk_events primary key (id, spirit_id),
    constraint uq_events_sequence unique (spirit_id, sequence),
    constraint fk_events_spirit_id foreign key (spirit_id) references spirits (id),
    constraint ck_events_sequence check (sequence > 0),
    constraint ck_events_importance_score check (importance_score between 0 and 1),
    constraint ck_events_deleted_at check (is_deleted = (deleted_at is not null))
);
