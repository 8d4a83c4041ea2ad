-- Feed and replay of a whole spirit, and feeds of one event type: the type as last column decides in the index which
-- events are read from the table. It replaces the indexes of 0004 and 0006; see the measurement in docs/performance.md.
create index ix_events_occurred_at on events (spirit_id, occurred_at, sequence, event_type);
