//! Reads the database of the Python backend: its tables `spirits` and `events`, whose times have no zone and are UTC.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions as _, FromRow};
use uuid::Uuid;

use crate::domain::Time;
use crate::store::pg::error::StoreError;
use crate::store::with_name;

/// Columns that are moved.
const TABLES: [(&str, &[&str]); 2] = [
    (
        "spirits",
        &[
            "id",
            "name",
            "description",
            "meta",
            "is_deleted",
            "created_at",
            "updated_at",
        ],
    ),
    (
        "events",
        &[
            "id",
            "spirit_id",
            "event_type",
            "meta_summary",
            "source_uri",
            "content",
            "occurred_at",
            "session_id",
            "meta",
            "dedupe_key",
            "importance_score",
            "is_deleted",
            "created_at",
            "updated_at",
        ],
    ),
];
/// The table in which Alembic keeps the version of the schema.
const VERSION_TABLE: &str = "alembic_version";

/// A snapshot of the database, so that the numbers of a report agree.
const BEGIN: &str = "begin isolation level repeatable read, read only";

const COLUMNS: &str = "
    select table_name::text, column_name::text
    from information_schema.columns
    where table_schema = current_schema()";

const COUNT_EVENTS: &str = "select count(*) from events";

/// Reads the spirits by id. A time outside the years 1 to 9999 is null.
const SPIRITS: &str = "
    select
        id, name, description, meta::text as meta, is_deleted,
        case when created_at >= '0001-01-01' and created_at < '10000-01-01' then created_at at time zone 'UTC' end
            as created_at,
        case when updated_at >= '0001-01-01' and updated_at < '10000-01-01' then updated_at at time zone 'UTC' end
            as updated_at
    from spirits
    order by id";

/// Reads the events of each spirit by `(created_at, id)`. A time outside the years 1 to 9999 is null, and so are the texts
/// of an event whose texts have more than `$1` bytes.
const EVENTS: &str = "
    select
        id, spirit_id, event_type::text as event_type, size.bytes,
        case when size.bytes <= $1 then meta_summary end as meta_summary,
        case when size.bytes <= $1 then source_uri end as source_uri,
        case when size.bytes <= $1 then content end as content,
        case when size.bytes <= $1 then meta::text end as meta,
        occurred_at is not null as has_occurred_at,
        case when occurred_at >= '0001-01-01' and occurred_at < '10000-01-01' then occurred_at at time zone 'UTC' end
            as occurred_at,
        session_id, dedupe_key, importance_score, is_deleted,
        case when created_at >= '0001-01-01' and created_at < '10000-01-01' then created_at at time zone 'UTC' end
            as created_at,
        case when updated_at >= '0001-01-01' and updated_at < '10000-01-01' then updated_at at time zone 'UTC' end
            as updated_at
    from events
    cross join lateral (
        select
            octet_length(content)::bigint + octet_length(meta::text) + coalesce(octet_length(meta_summary), 0)
            + coalesce(octet_length(source_uri), 0) as bytes
    ) as size
    order by spirit_id, events.created_at, id";

/// The database of the Python backend, in a transaction that only reads.
pub struct LegacyDatabase(PgConnection);

/// The reason why a database cannot be moved.
#[derive(Debug, thiserror::Error)]
pub enum LegacyError {
    #[error("it is not a database of the Python backend: {0}")]
    OtherSchema(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A row of `spirits`.
#[derive(Clone, Debug, FromRow)]
pub struct LegacySpirit {
    pub id: Uuid,
    pub name: String,
    pub description: Option<String>,
    /// JSON text.
    pub meta: Option<String>,
    pub is_deleted: bool,
    /// `None` outside the years 1 to 9999.
    pub created_at: Option<Time>,
    pub updated_at: Option<Time>,
}

/// A row of `events`.
#[derive(Clone, Debug, FromRow)]
pub struct LegacyEvent {
    pub id: Uuid,
    pub spirit_id: Uuid,
    pub event_type: String,
    /// Bytes of all texts.
    pub bytes: i64,
    pub meta_summary: Option<String>,
    pub source_uri: Option<String>,
    /// `None` if the texts are too long to be read.
    pub content: Option<String>,
    /// JSON text.
    pub meta: Option<String>,
    pub has_occurred_at: bool,
    /// `None` also outside the years 1 to 9999, as are the other times.
    pub occurred_at: Option<Time>,
    pub session_id: Option<String>,
    pub dedupe_key: Option<String>,
    pub importance_score: Option<f64>,
    pub is_deleted: bool,
    pub created_at: Option<Time>,
    pub updated_at: Option<Time>,
}

impl LegacyDatabase {
    /// Connects and begins to read.
    pub async fn connect(options: PgConnectOptions) -> Result<Self, LegacyError> {
        let mut connection = with_name(options).connect().await.map_err(StoreError::from)?;
        sqlx::raw_sql(BEGIN)
            .execute(&mut connection)
            .await
            .map_err(StoreError::from)?;
        Ok(Self(connection))
    }

    /// Checks that all columns exist. Returns the tables and columns that are not moved.
    pub async fn check_schema(&mut self) -> Result<Vec<String>, LegacyError> {
        let rows: Vec<(String, String)> = sqlx::query_as(COLUMNS)
            .fetch_all(&mut self.0)
            .await
            .map_err(StoreError::from)?;
        let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (table, column) in rows {
            found.entry(table).or_default().insert(column);
        }
        let mut others = Vec::new();
        for (table, columns) in TABLES {
            let mut existing = found
                .remove(table)
                .ok_or_else(|| LegacyError::OtherSchema(format!("it has no table {table}")))?;
            for column in columns {
                if !existing.remove(*column) {
                    let text = format!("the table {table} has no column {column}");
                    return Err(LegacyError::OtherSchema(text));
                }
            }
            others.extend(existing.iter().map(|column| format!("column {table}.{column}")));
        }
        found.remove(VERSION_TABLE);
        others.extend(found.keys().map(|table| format!("table {table}")));
        Ok(others)
    }

    /// Returns the number of events.
    pub async fn event_count(&mut self) -> Result<u64, StoreError> {
        let (count,): (i64,) = sqlx::query_as(COUNT_EVENTS).fetch_one(&mut self.0).await?;
        Ok(count.unsigned_abs())
    }

    /// Reads the spirits.
    pub fn spirits(&mut self) -> BoxStream<'_, Result<LegacySpirit, StoreError>> {
        let rows = sqlx::query_as(SPIRITS).fetch(&mut self.0);
        rows.map_err(StoreError::from).boxed()
    }

    /// Reads the events, spirit by spirit. Texts of more than `bytes_max` bytes are not read.
    pub fn events(&mut self, bytes_max: i64) -> BoxStream<'_, Result<LegacyEvent, StoreError>> {
        let rows = sqlx::query_as(EVENTS).bind(bytes_max).fetch(&mut self.0);
        rows.map_err(StoreError::from).boxed()
    }
}
