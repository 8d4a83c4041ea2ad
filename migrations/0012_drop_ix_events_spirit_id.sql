-- ix_events_occurred_at serves its reads.
drop index ix_events_spirit_id;
