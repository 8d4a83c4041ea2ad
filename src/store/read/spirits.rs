//! Spirits: create, read, list, count.

use std::sync::{Arc, LazyLock};

use sqlx::types::chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, FromRow};
use uuid::Uuid;

use crate::store::read::list_events::QueryAs;
use crate::store::pg::error::StoreError;
use crate::store::read::Reader;
use crate::store::Store;
use crate::domain::access::SpiritScope;
use crate::domain::cursor::{NamedSpiritPlace, NewestSpiritPlace};
use crate::domain::filter::start_of_year;
use crate::domain::ids::SpiritId;
use crate::domain::meta::Meta;
use crate::domain::spirit::{NewSpirit, Spirit, fold_name};

/// A page of spirits that a reader wants.
#[derive(Clone, Debug)]
pub struct SpiritQuery {
    /// Only these.
    pub reach: SpiritScope,
    pub order: SpiritOrder,
    pub include_deleted: bool,
    pub offset: i64,
    pub size: usize,
}

/// Which spirits, in which order, from where.
#[derive(Clone, Debug)]
pub enum SpiritOrder {
    /// All, newest first by (`created_at`, id).
    Newest { after: Option<NewestSpiritPlace> },
    /// Those whose folded name contains this folded text, by (folded name, id).
    Named {
        contains_folded: String,
        after: Option<NamedSpiritPlace>,
    },
}

/// A page of spirits.
#[derive(Debug)]
pub struct SpiritPage {
    pub spirits: Vec<Spirit>,
    /// Whether there are spirits behind it.
    pub more: bool,
}

pub(super) const SPIRIT_COLUMNS: &str =
    "id, name, description, meta::text as meta, last_sequence, revision, deleted_at, created_at, updated_at";

#[derive(Debug, FromRow)]
pub(super) struct SpiritRow {
    id: Uuid,
    name: String,
    description: Option<String>,
    meta: String,
    last_sequence: i64,
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
            revision: row.revision,
            deleted_at: row.deleted_at,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

impl Store {
    /// Stores a spirit.
    pub async fn create_spirit(&self, new: NewSpirit) -> Result<Spirit, StoreError> {
        let statement = sqlx::query_as::<_, SpiritRow>(AssertSqlSafe(Arc::clone(&INSERT)))
            .bind(new.id.0)
            .bind(fold_name(&new.name))
            .bind(new.name)
            .bind(new.description)
            .bind(new.meta.as_json());
        let row = self.connections.one(statement).await?;
        Ok(row.into())
    }
}

impl Reader {
    /// One spirit; one that a standby does not know the primary may.
    pub async fn get_spirit(
        &mut self,
        id: SpiritId,
        include_deleted: bool,
    ) -> Result<Option<Spirit>, StoreError> {
        let statement = || {
            sqlx::query_as::<_, SpiritRow>(AssertSqlSafe(Arc::clone(&GET)))
                .bind(id.0)
                .bind(include_deleted)
        };
        let mut row = self.optional(statement()).await?;
        if row.is_none() && self.leave_standby() {
            row = self.optional(statement()).await?;
        }
        Ok(row.map(Spirit::from))
    }

    /// A page of spirits.
    pub async fn list_spirits(&mut self, query: SpiritQuery) -> Result<SpiritPage, StoreError> {
        let limit = i64::try_from(query.size).unwrap_or(i64::MAX).saturating_add(1);
        let listed = ids(&query.reach);
        let statement = match query.order {
            SpiritOrder::Newest { after } => {
                let after = after.unwrap_or_else(|| NewestSpiritPlace {
                    created_at: start_of_year(10_000),
                    id: SpiritId(Uuid::max()),
                });
                page_query(&LIST_NEWEST, listed.is_some())
                    .bind(after.created_at)
                    .bind(after.id.0)
            }
            SpiritOrder::Named {
                contains_folded,
                after,
            } => {
                let after = after.unwrap_or_else(|| NamedSpiritPlace {
                    name_folded: String::new(),
                    id: SpiritId(Uuid::nil()),
                });
                page_query(&LIST_NAMED, listed.is_some())
                    .bind(contains_folded)
                    .bind(after.name_folded)
                    .bind(after.id.0)
            }
        };
        let statement = statement
            .bind(query.include_deleted)
            .bind(limit)
            .bind(query.offset);
        let statement = match listed {
            Some(listed) => statement.bind(listed),
            None => statement,
        };
        let rows = self.all(statement).await?;
        Ok(SpiritPage {
            more: rows.len() > query.size,
            spirits: rows.into_iter().take(query.size).map(Spirit::from).collect(),
        })
    }

    /// How many of these spirits there are.
    pub async fn count_spirits(&mut self, reach: &SpiritScope, include_deleted: bool) -> Result<i64, StoreError> {
        let statement = match ids(reach) {
            None => sqlx::query_as::<_, (i64,)>(COUNT).bind(include_deleted),
            Some(listed) => sqlx::query_as(COUNT_LISTED).bind(include_deleted).bind(listed),
        };
        let (count,) = self.one(statement).await?;
        Ok(count)
    }

    /// The spirit's newest sequence; `None` when there is no such spirit.
    pub(super) async fn last_sequence(&mut self, id: SpiritId) -> Result<Option<i64>, StoreError> {
        let statement = sqlx::query_as::<_, (i64,)>(LAST_SEQUENCE).bind(id.0);
        let row = self.optional(statement).await?;
        Ok(row.map(|(last_sequence,)| last_sequence))
    }
}

/// The spirits by id; `None` = every one.
fn ids(reach: &SpiritScope) -> Option<Vec<Uuid>> {
    Some(reach.spirit_ids()?.iter().map(|id| id.0).collect())
}

/// The statement of a page over all spirits, or over those of a list.
fn page_query(statements: &[Arc<str>; 2], of_list: bool) -> QueryAs<'static, SpiritRow> {
    sqlx::query_as(AssertSqlSafe(Arc::clone(&statements[usize::from(of_list)])))
}

const COUNT: &str = "select count(*) from spirits where $1 or deleted_at is null";

const COUNT_LISTED: &str = "select count(*) from spirits where ($1 or deleted_at is null) and id = any($2)";

const LAST_SEQUENCE: &str = "select last_sequence from spirits where id = $1";

static INSERT: LazyLock<Arc<str>> = LazyLock::new(|| {
    format!(
        "insert into spirits (id, name_folded, name, description, meta)
         values ($1, $2, $3, $4, $5::jsonb)
         returning {SPIRIT_COLUMNS}"
    )
    .into()
});

static GET: LazyLock<Arc<str>> = LazyLock::new(|| {
    format!(
        "select {SPIRIT_COLUMNS}
         from spirits
         where id = $1
         and ($2 or deleted_at is null)"
    )
    .into()
});

/// Over all, and over a list.
static LIST_NEWEST: LazyLock<[Arc<str>; 2]> = LazyLock::new(|| {
    ["", "and id = any($6)"].map(|listed| {
        format!(
            "select {SPIRIT_COLUMNS}
             from spirits
             where (created_at, id) < ($1, $2)
             and ($3 or deleted_at is null)
             {listed}
             order by created_at desc, id desc
             limit $4
             offset $5"
        )
        .into()
    })
});

/// Over all, and over a list.
static LIST_NAMED: LazyLock<[Arc<str>; 2]> = LazyLock::new(|| {
    ["", "and id = any($7)"].map(|listed| {
        format!(
            r#"select {SPIRIT_COLUMNS}
             from spirits
             where strpos(name_folded, $1 collate "C") > 0
             and (name_folded, id) > ($2 collate "C", $3)
             and ($4 or deleted_at is null)
             {listed}
             order by name_folded, id
             limit $5
             offset $6"#
        )
        .into()
    })
});

/// See [`super::statements`].
pub(super) fn statements() -> Vec<(&'static str, Arc<str>)> {
    vec![
        ("create_spirit", Arc::clone(&INSERT)),
        ("get_spirit", Arc::clone(&GET)),
        ("list_spirits/newest", Arc::clone(&LIST_NEWEST[0])),
        ("list_spirits/newest/listed", Arc::clone(&LIST_NEWEST[1])),
        ("list_spirits/named", Arc::clone(&LIST_NAMED[0])),
        ("list_spirits/named/listed", Arc::clone(&LIST_NAMED[1])),
        ("count_spirits", COUNT.into()),
        ("count_spirits/listed", COUNT_LISTED.into()),
        ("last_sequence", LAST_SEQUENCE.into()),
    ]
}
