//! Columns and rows of events and spirits.

use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::types::chrono::{DateTime, Utc};
use sqlx::{FromRow, Row as _};
use uuid::Uuid;

use crate::domain::event::Event;
use crate::domain::ids::{EventId, SpiritId};
use crate::domain::meta::Meta;
use crate::domain::purge::Retention;
use crate::domain::spirit::Spirit;

/// Columns of an event in every view, in the order in which [`EventRow`] reads them.
pub(in crate::store) const BASIC_COLUMNS: &str = "id, spirit_id, sequence, event_type, meta_summary, occurred_at, session_id, \
     role, author, source_uri, dedupe_key, importance_score, revision, deleted_at, created_at, updated_at";

/// Columns that the FULL view adds after the basic ones.
pub(in crate::store) const FULL_COLUMNS: &str = "content, meta::text as meta";

/// Null columns in place of [`FULL_COLUMNS`] in the BASIC view, so that both views have the same columns.
pub(in crate::store) const NO_COLUMNS: &str = "null::text as content, null::text as meta";

/// The column that a [`CutEventRow`] has after those of an [`EventRow`].
pub(in crate::store) const CONTENT_BYTES: &str = "octet_length(content) as content_bytes";

/// Columns of a spirit.
pub(in crate::store) const SPIRIT_COLUMNS: &str = "id, name, description, meta::text as meta, last_sequence, last_change, retention_max_age, \
     retention_deleted_max_age, retention_history_max_age, revision, deleted_at, created_at, updated_at";

/// A row of [`BASIC_COLUMNS`] and [`FULL_COLUMNS`]. Its columns are read by index, which is several times faster
/// than by name.
#[derive(Debug)]
pub(in crate::store) struct EventRow(Event);

impl From<EventRow> for Event {
    fn from(EventRow(event): EventRow) -> Self {
        event
    }
}

impl FromRow<'_, PgRow> for EventRow {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self(Event {
            id: EventId(row.try_get::<Uuid, _>(0)?),
            spirit_id: SpiritId(row.try_get::<Uuid, _>(1)?),
            sequence: row.try_get(2)?,
            event_type: row.try_get(3)?,
            meta_summary: row.try_get(4)?,
            occurred_at: row.try_get::<DateTime<Utc>, _>(5)?,
            session_id: row.try_get(6)?,
            role: row.try_get(7)?,
            author: row.try_get(8)?,
            source_uri: row.try_get(9)?,
            dedupe_key: row.try_get(10)?,
            importance_score: row.try_get(11)?,
            revision: row.try_get(12)?,
            deleted_at: row.try_get(13)?,
            created_at: row.try_get(14)?,
            updated_at: row.try_get(15)?,
            content: row.try_get(16)?,
            content_bytes: None,
            meta: row.try_get::<Option<String>, _>(17)?.map(Meta::from_json),
        }))
    }
}

/// An [`EventRow`] with the length of the whole content, of which the row may have the beginning only.
#[derive(Debug)]
pub(in crate::store) struct CutEventRow {
    pub(in crate::store) event: Event,
    pub(in crate::store) content_bytes: usize,
}

impl CutEventRow {
    /// Returns the event with at most this number of bytes of its content.
    pub(in crate::store) fn cut_to(mut self, bytes_max: i32) -> Event {
        let bytes_max = usize::try_from(bytes_max).unwrap_or(0);
        self.event.cut_content(bytes_max, self.content_bytes);
        self.event
    }
}

impl FromRow<'_, PgRow> for CutEventRow {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        let content_bytes: i32 = row.try_get(18)?;
        Ok(Self {
            event: EventRow::from_row(row)?.into(),
            content_bytes: usize::try_from(content_bytes).unwrap_or(0),
        })
    }
}

/// A row of [`SPIRIT_COLUMNS`].
#[derive(Debug, FromRow)]
pub(in crate::store) struct SpiritRow {
    id: Uuid,
    name: String,
    description: Option<String>,
    meta: String,
    last_sequence: i64,
    last_change: i64,
    retention_max_age: Option<i64>,
    retention_deleted_max_age: Option<i64>,
    retention_history_max_age: Option<i64>,
    revision: i64,
    deleted_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl From<SpiritRow> for Spirit {
    fn from(row: SpiritRow) -> Self {
        Self {
            id: SpiritId(row.id),
            name: row.name,
            description: row.description,
            meta: Meta::from_json(row.meta),
            last_sequence: row.last_sequence,
            last_change: row.last_change,
            retention: Retention {
                max_age: row.retention_max_age.map(age),
                deleted_max_age: row.retention_deleted_max_age.map(age),
                history_max_age: row.retention_history_max_age.map(age),
            },
            revision: row.revision,
            deleted_at: row.deleted_at,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

/// Converts an age of a retention from the microseconds that the table has.
fn age(micros: i64) -> Duration {
    Duration::from_micros(micros.unsigned_abs())
}

/// Converts an age of a retention to the microseconds that the table has.
pub(in crate::store) fn age_micros(age: Option<Duration>) -> Option<i64> {
    age.map(|age| i64::try_from(age.as_micros()).unwrap_or(i64::MAX))
}
