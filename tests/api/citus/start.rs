//! Starts on distributed tables without the setting for them.

use elephantasm_events::store::{DISTRIBUTED_TABLES, Sharding, StartupError, Store};
use sqlx::migrate::Migrate as _;
use sqlx::{AssertSqlSafe, PgConnection};

use super::distribute::migrated;
use super::distribute_statement;
use crate::support::citus::skipped_without_citus;
use crate::support::harness::{Database, Settings, eventually};

/// Opens a store that takes the database for a single PostgreSQL.
fn store_of_one_postgres(database: &Database) -> Store {
    let mut settings = Settings::default().store;
    settings.sharding = Sharding::None;
    Store::open(database.connect.clone(), settings)
}

#[track_caller]
fn assert_refused(started: Result<i64, StartupError>) {
    let refused = started.unwrap_err();
    assert!(matches!(refused, StartupError::Distributed), "{refused}");
    assert!(refused.to_string().contains("--citus"), "{refused}");
}

async fn distribute_tables(connection: &mut PgConnection) {
    for (table, column) in DISTRIBUTED_TABLES {
        let distribute = distribute_statement(table, column);
        sqlx::raw_sql(AssertSqlSafe(distribute))
            .execute(&mut *connection)
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_the_setting_refuses_distributed_tables() {
    if skipped_without_citus() {
        return;
    }
    let database = Database::create().await;
    let store = store_of_one_postgres(&database);
    assert_refused(store.migrate().await);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_the_setting_refuses_tables_that_were_distributed_while_it_waited_for_the_lock_of_migrations()
 {
    if skipped_without_citus() {
        return;
    }
    let database = migrated().await;
    let mut distributing = database.connect().await;
    distributing.lock().await.unwrap();
    let store = store_of_one_postgres(&database);
    let starting = tokio::spawn({
        let store = store.clone();
        async move { store.migrate().await }
    });
    let mut observer = database.connect().await;
    eventually("the start waits for the lock", async || {
        let waiting: i64 = sqlx::query_scalar(
            "select count(*) from pg_locks
             where locktype = 'advisory' and not granted
             and database = (select oid from pg_database where datname = current_database())",
        )
        .fetch_one(&mut observer)
        .await
        .unwrap();
        (waiting == 1).then_some(())
    })
    .await;
    distribute_tables(&mut distributing).await;
    distributing.unlock().await.unwrap();
    assert_refused(starting.await.unwrap());
    store.close().await;
}
