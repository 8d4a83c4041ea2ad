-- Pages of a spirit's sessions, most recently active first.
create index ix_sessions_active_minute
    on sessions (spirit_id, active_minute desc, session_id);
