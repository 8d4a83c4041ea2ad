//! The columns of an event and the row they make.

use sqlx::FromRow;
use sqlx::types::chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::domain::event::Event;
use crate::domain::ids::{EventId, SpiritId};
use crate::domain::meta::Meta;

/// Columns of every view, in the order of the table.
pub(super) const BASIC_COLUMNS: &str = "id, spirit_id, sequence, event_type, meta_summary, occurred_at, session_id, \
     role, author, source_uri, dedupe_key, importance_score, revision, deleted_at, created_at, updated_at";

/// What the FULL view adds.
pub(super) const FULL_COLUMNS: &str = "content, meta::text as meta";

/// What stands in their place in the BASIC view.
pub(super) const NO_COLUMNS: &str = "null::text as content, null::text as meta";

#[derive(Debug, FromRow)]
pub(super) struct EventRow {
    id: Uuid,
    spirit_id: Uuid,
    sequence: i64,
    event_type: String,
    meta_summary: Option<String>,
    content: Option<String>,
    occurred_at: DateTime<Utc>,
    session_id: Option<String>,
    role: Option<String>,
    author: Option<String>,
    meta: Option<String>,
    source_uri: Option<String>,
    dedupe_key: Option<String>,
    importance_score: Option<f64>,
    revision: i64,
    deleted_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl From<EventRow> for Event {
    fn from(row: EventRow) -> Self {
        Self {
            id: EventId(row.id),
            spirit_id: SpiritId(row.spirit_id),
            sequence: row.sequence,
            event_type: row.event_type,
            meta_summary: row.meta_summary,
            content: row.content,
            occurred_at: row.occurred_at,
            session_id: row.session_id,
            role: row.role,
            author: row.author,
            meta: row.meta.map(Meta::from_json),
            source_uri: row.source_uri,
            dedupe_key: row.dedupe_key,
            importance_score: row.importance_score,
            revision: row.revision,
            deleted_at: row.deleted_at,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}
