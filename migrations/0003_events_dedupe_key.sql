-- A dedupe key names one event of a spirit, soft-deleted events included.
create unique index uq_events_dedupe_key
    on events (spirit_id, dedupe_key)
    where dedupe_key is not null;
