-- Feed and replay of one session, and the loose scan that finds a spirit's sessions.
create index ix_events_session_id
    on events (spirit_id, session_id, occurred_at, sequence)
    where session_id is not null;
