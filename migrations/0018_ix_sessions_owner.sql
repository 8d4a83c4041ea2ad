-- Pages of an owner's sessions, most recently active first.
create index ix_sessions_owner
    on sessions (spirit_id, owner, active_minute desc, session_id)
    where owner is not null;
