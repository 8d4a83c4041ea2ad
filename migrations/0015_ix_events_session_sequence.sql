-- The last sequence of a session: one seek, however many events the session and the spirit have.
create index ix_events_session_sequence
    on events (spirit_id, session_id, sequence)
    where session_id is not null;
