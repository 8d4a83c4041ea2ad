//! Finds the stored events that have the dedupe keys of a flush.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use sqlx::FromRow;
use sqlx::types::chrono::{DateTime, Utc};
use tracing::Instrument as _;
use uuid::Uuid;

use super::division::Division;
use crate::domain::admission::{DedupeKeyHolder, Identity};
use crate::domain::event::NewEvent;
use crate::domain::ids::{EventId, SpiritId};
use crate::store::pg::error::StoreError;
use crate::store::pg::session::PgSession;
use crate::store::pg::spans;

pub(in crate::store) const DEDUPE_KEYS: &str = include_str!("dedupe_keys.sql");
pub(in crate::store) const DEDUPE_KEYS_SHARDED: &str = include_str!("dedupe_keys_sharded.sql");

/// Returns the statement for a database that is distributed or not.
pub(in crate::store) const fn dedupe_keys(is_sharded: bool) -> &'static str {
    if is_sharded {
        DEDUPE_KEYS_SHARDED
    } else {
        DEDUPE_KEYS
    }
}

/// Returns the stored events that have dedupe keys of the items, with what a duplicate is compared by.
pub(super) async fn read_dedupe_keys<'j>(
    session: &mut PgSession,
    division: &Division,
    items: impl Iterator<Item = &'j Arc<NewEvent>>,
) -> Result<HashMap<(SpiritId, String), DedupeKeyHolder>, StoreError> {
    let wanted: HashSet<(Uuid, &str)> = items
        .filter_map(|item| Some((item.spirit_id.0, item.dedupe_key.as_deref()?)))
        .collect();
    if wanted.is_empty() {
        return Ok(HashMap::new());
    }
    let statement = dedupe_keys(session.is_sharded());
    let mut holders = HashMap::new();
    for wanted in division.by_shard(wanted, |(spirit_id, _)| SpiritId(*spirit_id)) {
        let (spirit_ids, keys): (Vec<Uuid>, Vec<&str>) = wanted.into_iter().unzip();
        let rows: Vec<DedupeKeyRow> = sqlx::query_as(statement)
            .bind(spirit_ids)
            .bind(keys)
            .persistent(session.keeps_prepared_statements())
            .fetch_all(session.connection())
            .instrument(spans::statement(statement))
            .await?;
        holders.extend(
            rows.into_iter()
                .map(<((SpiritId, String), DedupeKeyHolder)>::from),
        );
    }
    Ok(holders)
}

#[derive(FromRow)]
struct DedupeKeyRow {
    spirit_id: Uuid,
    dedupe_key: String,
    id: Uuid,
    sequence: i64,
    event_type: String,
    session_id: Option<String>,
    source_uri: Option<String>,
    occurred_at: DateTime<Utc>,
    content_sha256: [u8; 32],
}

impl From<DedupeKeyRow> for ((SpiritId, String), DedupeKeyHolder) {
    fn from(row: DedupeKeyRow) -> Self {
        let holder = DedupeKeyHolder::Stored {
            id: EventId(row.id),
            sequence: row.sequence,
            identity: Identity {
                event_type: row.event_type,
                content_sha256: row.content_sha256,
                session_id: row.session_id,
                source_uri: row.source_uri,
                occurred_at: row.occurred_at,
            },
        };
        ((SpiritId(row.spirit_id), row.dedupe_key), holder)
    }
}
