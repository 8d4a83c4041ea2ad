//! The statements that store what is moved. Those of events run in a transaction that has locked the spirit.

use const_format::formatcp;

use crate::store::pg::backfill::EPOCH_NOW;

/// Stores a spirit unless it exists or was purged.
pub(in crate::store) const STORE_SPIRIT: &str = formatcp!(
    "insert into spirits (
         id, name, name_folded, description, meta, activity_epoch, deleted_at, created_at, updated_at
     )
     select $1, $2, $3, $4, $5::jsonb, {EPOCH_NOW}, $6, $7, $8
     where not exists (
         select
         from purges
         where spirit_id = $1
         and selection = 'spirit'
     )
     on conflict (id) do nothing
     returning id"
);

/// Whether events of the spirit were purged by a request.
pub(in crate::store) const HAS_PURGES: &str = "
    select coalesce(
        (
            select true
            from purges
            where spirit_id = $1
            and selection <> 'retention'
            order by started_at, purge_id
            limit 1
        ),
        false
    ) as exists";

/// Finds the events of the spirit with these ids. As in [`GET`](crate::store::read::get_event::GET), the condition on the
/// spirit selects its partition, and is a filter in a generic plan, so that each lookup is an index seek by id.
pub(in crate::store) const STORED_EVENTS: &str = "
    select id
    from events
    where id = any($2)
    and ($1::uuid is null or spirit_id = $1)";

/// Stores events with their times.
pub(in crate::store) const STORE_EVENTS: &str = "
    insert into events (
        id, spirit_id, sequence, event_type, meta_summary, content, occurred_at, session_id, meta, source_uri,
        dedupe_key, importance_score, is_deleted, deleted_at, created_at, updated_at
    )
    select
        new.id, $1, new.sequence, new.event_type, new.meta_summary, new.content, new.occurred_at, new.session_id,
        new.meta::jsonb, new.source_uri, new.dedupe_key, new.importance_score, new.deleted_at is not null,
        new.deleted_at, new.created_at, new.updated_at
    from unnest(
        $2::uuid[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::timestamptz[], $8::text[], $9::text[],
        $10::text[], $11::text[], $12::float8[], $13::timestamptz[], $14::timestamptz[], $15::timestamptz[]
    ) as new (
        id, sequence, event_type, meta_summary, content, occurred_at, session_id, meta, source_uri,
        dedupe_key, importance_score, deleted_at, created_at, updated_at
    )";

/// Advances the spirit to its new last sequence and newest deletion.
pub(in crate::store) const ADVANCE_SPIRIT: &str = "
    update spirits
    set last_sequence = $2,
        last_deleted_at = greatest(last_deleted_at, $3)
    where id = $1";
