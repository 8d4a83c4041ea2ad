-- The check locked and logged the spirit's row once more for every event. Events are inserted by joins with spirits
-- that the same transaction has locked, and spirits are never deleted, so the constraint cannot be violated.
alter table events drop constraint fk_events_spirit_id;
