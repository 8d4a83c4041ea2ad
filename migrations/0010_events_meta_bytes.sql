-- The length of meta as text, which the byte budgets of pages count: pg_column_size(meta) is the compressed
-- length, and computing the text for each row that a page considers costs a third of the page's statement.
-- Rewrites the table once.
alter table events
    add column meta_bytes integer generated always as (octet_length(meta::text)) stored;
