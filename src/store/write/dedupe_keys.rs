//! Finds the stored events that have the dedupe keys of a flush.

use std::collections::HashMap;
use std::sync::Arc;

use sqlx::FromRow;
use sqlx::types::chrono::{DateTime, Utc};
use tracing::Instrument as _;
use uuid::Uuid;

use crate::domain::admission::{DedupeKeyHolder, Identity};
use crate::domain::event::{NewEvent, OnDuplicate};
use crate::domain::ids::{EventId, SpiritId};
use crate::store::pg::error::StoreError;
use crate::store::pg::session::PgSession;
use crate::store::pg::spans;

pub(in crate::store) const DEDUPE_KEYS: &str = include_str!("dedupe_keys.sql");

/// Returns the stored events that have dedupe keys of the items. The content of such an event is hashed only
/// if an item asks for a comparison with it.
pub(super) async fn read_dedupe_keys<'j>(
    session: &mut PgSession,
    items: impl Iterator<Item = &'j Arc<NewEvent>>,
) -> Result<HashMap<(SpiritId, String), DedupeKeyHolder>, StoreError> {
    let mut wanted: HashMap<(Uuid, &str), bool> = HashMap::new();
    for item in items {
        if let Some(key) = &item.dedupe_key {
            *wanted.entry((item.spirit_id.0, key)).or_default() |=
                item.on_duplicate == OnDuplicate::ReturnExisting;
        }
    }
    if wanted.is_empty() {
        return Ok(HashMap::new());
    }
    let (keys, compares): (Vec<_>, Vec<bool>) = wanted.into_iter().unzip();
    let (spirit_ids, keys): (Vec<Uuid>, Vec<&str>) = keys.into_iter().unzip();
    let rows: Vec<DedupeKeyRow> = sqlx::query_as(DEDUPE_KEYS)
        .bind(spirit_ids)
        .bind(keys)
        .bind(compares)
        .persistent(session.keeps_prepared_statements())
        .fetch_all(session.connection())
        .instrument(spans::statement(DEDUPE_KEYS))
        .await?;
    Ok(rows.into_iter().map(Into::into).collect())
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
    content_sha256: Option<Vec<u8>>,
}

impl From<DedupeKeyRow> for ((SpiritId, String), DedupeKeyHolder) {
    fn from(row: DedupeKeyRow) -> Self {
        let hash = row.content_sha256.and_then(|hash| hash.try_into().ok());
        let holder = DedupeKeyHolder::Stored {
            id: EventId(row.id),
            sequence: row.sequence,
            identity: Identity {
                event_type: row.event_type,
                content_sha256: hash.unwrap_or_default(),
                session_id: row.session_id,
                source_uri: row.source_uri,
                occurred_at: row.occurred_at,
            },
        };
        ((SpiritId(row.spirit_id), row.dedupe_key), holder)
    }
}
