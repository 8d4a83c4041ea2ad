-- Feeds of one event type: without it, a rare type is found only by reading the whole spirit.
create index ix_events_event_type on events (spirit_id, event_type, occurred_at, sequence);
