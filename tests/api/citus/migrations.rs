//! Every migration works on distributed tables, as those of later versions have to.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use elephantasm_events::store::{DISTRIBUTED_TABLES, Distributor, Store};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::distribute_statement;
use crate::support::citus::skipped_without_citus;
use crate::support::harness::{Database, Settings};

/// Tables with columns, indexes and constraints, as PostgreSQL prints them.
const SCHEMA: &str = "
    select attrelid::regclass::text || '.' || attname || ' ' || format_type(atttypid, atttypmod) || ' '
        || attnotnull || ' ' || attgenerated::text
        || coalesce(' ' || pg_get_expr(adbin, adrelid), '')
    from pg_attribute
    left join pg_attrdef on (adrelid, adnum) = (attrelid, attnum)
    where attrelid::regclass::text = any($1)
    and attnum > 0
    and not attisdropped
    union all
    select pg_get_indexdef(indexrelid)
    from pg_index
    where indrelid::regclass::text = any($1)
    union all
    select conname || ' ' || pg_get_constraintdef(oid)
    from pg_constraint
    where conrelid::regclass::text = any($1)";

fn tables() -> Vec<&'static str> {
    DISTRIBUTED_TABLES.into_iter().map(|(table, _)| table).collect()
}

async fn schema(connection: &mut PgConnection) -> BTreeSet<String> {
    let lines: Vec<String> = sqlx::query_scalar(SCHEMA)
        .bind(tables())
        .fetch_all(connection)
        .await
        .unwrap();
    lines.into_iter().collect()
}

/// Runs a statement in a transaction, as migrations do.
async fn migrate(connection: &mut PgConnection, sql: &str) -> sqlx::Result<()> {
    let mut transaction = connection.begin().await?;
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await
}

async fn exists(connection: &mut PgConnection, table: &str) -> bool {
    sqlx::query_scalar("select to_regclass($1) is not null")
        .bind(table)
        .fetch_one(connection)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_migration_works_on_distributed_tables_and_leads_to_the_same_schema() {
    if skipped_without_citus() {
        return;
    }
    let database = Database::empty().await;
    let mut connection = database.connect().await;
    let mut missing: Vec<(&str, &str)> = DISTRIBUTED_TABLES.into();
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
    let mut migrations: Vec<PathBuf> = fs::read_dir(directory)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    migrations.sort();
    for migration in migrations {
        let sql = fs::read_to_string(&migration).unwrap();
        let migrated = migrate(&mut connection, &sql).await;
        migrated.unwrap_or_else(|error| panic!("{}: {error}", migration.display()));
        if let Some((table, column)) = missing.first().copied()
            && exists(&mut connection, table).await
        {
            missing.remove(0);
            let distribute = distribute_statement(table, column);
            migrate(&mut connection, &distribute).await.unwrap();
        }
    }
    assert_eq!(missing, []);
    let migrated_first = Database::create().await;
    assert_eq!(
        schema(&mut connection).await,
        schema(&mut migrated_first.connect().await).await
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_distributes_tables_that_migrations_have_created() {
    if skipped_without_citus() {
        return;
    }
    let database = Database::create().await;
    let mut connection = database.connect().await;
    migrate(&mut connection, "select undistribute_table('purges')")
        .await
        .unwrap();
    let mut settings = Settings::default();
    let connect = database.server_connect_options(&mut settings.store);
    let stores: Vec<Store> = (0..2)
        .map(|_| Store::open(connect.clone(), settings.store.clone()))
        .collect();
    let (first, second) = tokio::join!(stores[0].migrate(), stores[1].migrate());
    assert_eq!(first.unwrap(), second.unwrap());
    for store in stores {
        store.close().await;
    }
    let distributed: i64 =
        sqlx::query_scalar("select count(*) from citus_tables where citus_table_type = 'distributed'")
            .fetch_one(&mut connection)
            .await
            .unwrap();
    assert_eq!(usize::try_from(distributed).unwrap(), DISTRIBUTED_TABLES.len());
    let distributor = Distributor::connect(database.connect.clone()).await.unwrap();
    assert_eq!(distributor.distribute(None).await.unwrap().tables, [""; 0]);
}
