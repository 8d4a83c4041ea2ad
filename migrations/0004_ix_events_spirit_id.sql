-- Feed and replay of a whole spirit, by keyset in either direction.
create index ix_events_spirit_id on events (spirit_id, occurred_at, sequence);
