-- The length of meta as text, which the byte budgets of pages count: pg_column_size(meta) is the compressed
-- length, and the text itself would be fetched and decompressed for every row that a page considers.
-- Rewrites the table once.
alter table events
    add column meta_bytes integer generated always as (octet_length(meta::text)) stored;
