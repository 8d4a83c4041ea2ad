//! The tables that are distributed, and how they are laid out.

use sqlx::migrate::Migrate as _;
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, FromRow};

use super::DistributeError;
use crate::store::pg::startup_error::StartupError;

/// Tables that have a spirit, and the column of its id. All others are read as a whole and stay on the coordinator.
pub const DISTRIBUTED_TABLES: [(&str, &str); 5] = [
    (SPIRITS, "id"),
    ("events", "spirit_id"),
    ("sessions", "spirit_id"),
    ("changes", "spirit_id"),
    ("purges", "spirit_id"),
];

/// The table that the others are placed beside.
const SPIRITS: &str = "spirits";

/// Whether the tables are distributed. True only if the extension exists, too.
const HAS_METADATA: &str = "select to_regclass('pg_catalog.pg_dist_partition') is not null";

/// Whether spirits are distributed; the catalog belongs to the extension.
const IS_DISTRIBUTED: &str = "
    select exists (
        select
        from pg_dist_partition
        where logicalrelid = to_regclass('spirits')
        and partmethod = 'h'
    )";

/// Reads how each of these tables is distributed: its column, group of tables placed side by side and number of shards.
/// Tables that are not distributed have no row.
const LAYOUT: &str = "
    select
        listed.name,
        placed.partmethod = 'h'
            and column_to_column_name(placed.logicalrelid, placed.partkey) = listed.spirit_column as is_by_spirit,
        placed.colocationid,
        (select count(*) from pg_dist_shard where pg_dist_shard.logicalrelid = placed.logicalrelid) as shards
    from unnest($1::text[], $2::text[]) as listed (name, spirit_column)
    join pg_dist_partition as placed on placed.logicalrelid = to_regclass(listed.name)";

const DISTRIBUTE_SPIRITS: &str = "
    select create_distributed_table('spirits', 'id', shard_count := $1, colocate_with := 'none')::text";

const DISTRIBUTE: &str = "
    select create_distributed_table($1::text::regclass, $2, colocate_with := 'spirits')::text";

/// Removes the rows that were copied to the shards. They cannot be read any more, and would take up space.
const TRUNCATE: &str = "
    select truncate_local_data_after_distributing_table($1::text::regclass)::text";

#[derive(FromRow)]
struct LayoutRow {
    name: String,
    is_by_spirit: Option<bool>,
    colocationid: i32,
    shards: i64,
}

/// The tables that are distributed already.
pub(super) struct Layout {
    tables: Vec<String>,
    /// Number of shards of each table.
    pub(super) shards: Option<u32>,
}

impl Layout {
    /// Returns whether all tables are distributed.
    pub(super) fn is_complete(&self) -> bool {
        self.missing().next().is_none()
    }

    fn missing(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let tables = DISTRIBUTED_TABLES.into_iter();
        tables.filter(|(name, _)| !self.tables.iter().any(|table| table == name))
    }
}

/// Reads the layout. Fails if a table is distributed in another way than this module does it.
pub(super) async fn layout(connection: &mut PgConnection) -> Result<Layout, DistributeError> {
    let (names, columns) = DISTRIBUTED_TABLES.into_iter().unzip::<_, _, Vec<_>, Vec<_>>();
    let rows: Vec<LayoutRow> = sqlx::query_as(LAYOUT)
        .bind(names)
        .bind(columns)
        .fetch_all(connection)
        .await?;
    let spirits = rows.iter().find(|row| row.name == SPIRITS);
    let beside = spirits.map(|row| row.colocationid);
    let misplaced = rows
        .iter()
        .find(|row| row.is_by_spirit != Some(true) || Some(row.colocationid) != beside);
    if let Some(row) = misplaced {
        return Err(DistributeError::OtherLayout(row.name.clone()));
    }
    Ok(Layout {
        shards: spirits.and_then(|row| u32::try_from(row.shards).ok()),
        tables: rows.into_iter().map(|row| row.name).collect(),
    })
}

/// Distributes the tables that are not in the layout, in one transaction, and returns their names.
pub(super) async fn distribute(
    connection: &mut PgConnection,
    layout: &Layout,
    shards: u32,
) -> Result<Vec<String>, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let mut distributed = Vec::new();
    for (table, column) in layout.missing() {
        let statement = if table == SPIRITS {
            sqlx::query(DISTRIBUTE_SPIRITS).bind(i32::try_from(shards).unwrap_or(i32::MAX))
        } else {
            sqlx::query(DISTRIBUTE).bind(table).bind(column)
        };
        statement.execute(&mut *transaction).await?;
        sqlx::query(TRUNCATE)
            .bind(table)
            .execute(&mut *transaction)
            .await?;
        distributed.push(table.to_owned());
    }
    transaction.commit().await?;
    Ok(distributed)
}

/// Distributes tables that migrations have created since the others were distributed. Does nothing on a database that is not
/// distributed.
pub(in crate::store) async fn distribute_new_tables(
    connection: &mut PgConnection,
) -> Result<(), StartupError> {
    if !is_distributed(connection).await? {
        return Ok(());
    }
    // Another instance may start at the same time.
    connection.lock().await?;
    let placed = layout(connection).await;
    let layout = placed.map_err(|error| StartupError::Failed(error.to_string()))?;
    let shards = layout.shards.unwrap_or(super::SHARDS_DEFAULT);
    for table in distribute(connection, &layout, shards).await? {
        tracing::info!(table, "distributed a new table");
    }
    connection.unlock().await?;
    Ok(())
}

async fn is_distributed(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let has_metadata: bool = sqlx::query_scalar(HAS_METADATA)
        .fetch_one(&mut *connection)
        .await?;
    if !has_metadata {
        return Ok(false);
    }
    sqlx::query_scalar(IS_DISTRIBUTED).fetch_one(connection).await
}
