//! Reads of spirits: one, a page, a count.

use const_format::formatcp;
use sqlx::FromRow;
use uuid::Uuid;

use super::Reader;
use crate::domain::access::SpiritScope;
use crate::domain::cursor::{NamedSpiritPosition, NewestSpiritPosition};
use crate::domain::filter::start_of_year;
use crate::domain::ids::SpiritId;
use crate::domain::limits::PAGE_BYTES;
use crate::domain::spirit::Spirit;
use crate::store::pg::error::StoreError;
use crate::store::pg::rows::{SPIRIT_COLUMNS, SpiritRow};
use crate::store::pg::session::Statement;

/// A request for a page of spirits.
#[derive(Clone, Debug)]
pub struct SpiritQuery {
    /// The spirits that the page may contain.
    pub scope: SpiritScope,
    pub order: SpiritOrder,
    pub include_deleted: bool,
    /// Number of spirits to skip.
    pub offset: i64,
    /// Maximum number of spirits in the page.
    pub size: usize,
}

/// The order of a page of spirits, and the position after which it starts.
#[derive(Clone, Debug)]
pub enum SpiritOrder {
    /// All spirits, newest first by (`created_at`, id).
    Newest { after: Option<NewestSpiritPosition> },
    /// Spirits whose case-folded name contains this text, by (folded name, id).
    Named {
        contains_folded: String,
        after: Option<NamedSpiritPosition>,
    },
}

/// A page of spirits.
#[derive(Debug)]
pub struct SpiritPage {
    pub spirits: Vec<Spirit>,
    /// Whether more spirits follow.
    pub more: bool,
}

impl Reader {
    /// Returns a spirit. A spirit that the standby does not have is read from the primary.
    pub async fn get_spirit(
        &mut self,
        id: SpiritId,
        include_deleted: bool,
    ) -> Result<Option<Spirit>, StoreError> {
        let statement = || {
            sqlx::query_as::<_, SpiritRow>(GET)
                .bind(id.0)
                .bind(include_deleted)
        };
        let mut row = self.optional(statement()).await?;
        if row.is_none() && self.leave_standby() {
            row = self.optional(statement()).await?;
        }
        Ok(row.map(Spirit::from))
    }

    /// Returns a page of spirits.
    pub async fn list_spirits(&mut self, query: SpiritQuery) -> Result<SpiritPage, StoreError> {
        let limit = i64::try_from(query.size).unwrap_or(i64::MAX).saturating_add(1);
        let listed = ids(&query.scope);
        let statement = match query.order {
            SpiritOrder::Newest { after } => {
                let after = after.unwrap_or_else(|| NewestSpiritPosition {
                    created_at: start_of_year(10_000),
                    id: SpiritId(Uuid::max()),
                });
                page_query(LIST_NEWEST, listed.is_some())
                    .bind(after.created_at)
                    .bind(after.id.0)
            }
            SpiritOrder::Named {
                contains_folded,
                after,
            } => {
                let after = after.unwrap_or_else(|| NamedSpiritPosition {
                    name_folded: String::new(),
                    id: SpiritId(Uuid::nil()),
                });
                page_query(LIST_NAMED, listed.is_some())
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
        let found = rows.first().map_or(0, |row| row.found);
        let rows = rows.into_iter().take(query.size);
        let spirits: Vec<Spirit> = rows.map(|row| row.spirit.into()).collect();
        Ok(SpiritPage {
            more: usize::try_from(found).unwrap_or(usize::MAX) > spirits.len(),
            spirits,
        })
    }

    /// Returns the number of spirits in the scope.
    pub async fn count_spirits(
        &mut self,
        scope: &SpiritScope,
        include_deleted: bool,
    ) -> Result<i64, StoreError> {
        let statement = match ids(scope) {
            None => sqlx::query_as::<_, (i64,)>(COUNT).bind(include_deleted),
            Some(listed) => sqlx::query_as(COUNT_LISTED).bind(include_deleted).bind(listed),
        };
        let (count,) = self.one(statement).await?;
        Ok(count)
    }

    /// Returns the spirit's last sequence; `None` if the spirit does not exist. A soft-deleted spirit exists.
    pub(in crate::store) async fn last_sequence(&mut self, id: SpiritId) -> Result<Option<i64>, StoreError> {
        let statement = sqlx::query_as::<_, (i64,)>(LAST_SEQUENCE).bind(id.0);
        let row = self.optional(statement).await?;
        Ok(row.map(|(last_sequence,)| last_sequence))
    }
}

/// A spirit of a page, and the number of spirits found, of which the page may contain fewer.
#[derive(Debug, FromRow)]
struct PageRow {
    #[sqlx(flatten)]
    spirit: SpiritRow,
    found: i64,
}

/// Returns the ids of the spirits in the scope; `None` if it contains every spirit.
fn ids(scope: &SpiritScope) -> Option<Vec<Uuid>> {
    Some(scope.spirit_ids()?.iter().map(|id| id.0).collect())
}

/// Creates the statement of a page over all spirits, or over a list of spirits.
fn page_query(statements: [&'static str; 2], is_listed: bool) -> Statement<'static, PageRow> {
    sqlx::query_as(statements[usize::from(is_listed)])
}

pub(in crate::store) const COUNT: &str = "select count(*) from spirits where $1 or deleted_at is null";

pub(in crate::store) const COUNT_LISTED: &str =
    "select count(*) from spirits where ($1 or deleted_at is null) and id = any($2)";

pub(in crate::store) const LAST_SEQUENCE: &str = "select last_sequence from spirits where id = $1";

pub(in crate::store) const GET: &str = formatcp!(
    "select {SPIRIT_COLUMNS}
     from spirits
     where id = $1
     and ($2 or deleted_at is null)"
);

/// A page of these rows in this order. It ends with the row that passes the byte limit of a page, so that no later
/// row is read into memory.
macro_rules! page {
    ($rows:expr, $order:expr) => {
        formatcp!(
            "select {SPIRIT_COLUMNS}, found
             from (
                 select
                     id, name, name_folded, description, meta, last_sequence, last_change, retention_max_age,
                     retention_deleted_max_age, retention_history_max_age, revision, deleted_at, created_at,
                     updated_at, count(*) over () as found,
                     sum(bytes) over (order by {order} rows unbounded preceding) - bytes as bytes_before
                 from (
                     select
                         id, name, name_folded, description, meta, last_sequence, last_change, retention_max_age,
                         retention_deleted_max_age, retention_history_max_age, revision, deleted_at, created_at,
                         updated_at,
                         octet_length(meta::text) + coalesce(octet_length(description), 0) as bytes
                     {rows}
                 ) as spirits
             ) as spirits
             where bytes_before <= {PAGE_BYTES}
             order by {order}",
            rows = $rows,
            order = $order
        )
    };
}

macro_rules! list_newest {
    ($listed:expr) => {
        page!(
            formatcp!(
                "from spirits
                 where (created_at, id) < ($1, $2)
                 and ($3 or deleted_at is null)
                 {listed}
                 order by created_at desc, id desc
                 limit $4
                 offset $5",
                listed = $listed
            ),
            "created_at desc, id desc"
        )
    };
}

/// The statements over all spirits, and over a list of spirits.
pub(in crate::store) const LIST_NEWEST: [&str; 2] = [list_newest!(""), list_newest!("and id = any($6)")];

macro_rules! list_named {
    ($listed:expr) => {
        page!(
            formatcp!(
                "from spirits
                 where strpos(name_folded, $1 collate \"C\") > 0
                 and (name_folded, id) > ($2 collate \"C\", $3)
                 and ($4 or deleted_at is null)
                 {listed}
                 order by name_folded, id
                 limit $5
                 offset $6",
                listed = $listed
            ),
            "name_folded, id"
        )
    };
}

/// The statements over all spirits, and over a list of spirits.
pub(in crate::store) const LIST_NAMED: [&str; 2] = [list_named!(""), list_named!("and id = any($7)")];
