//! Migrations run under a lock, each in full or not at all, and never on a database of a newer version.

use std::sync::Arc;

use elephantasm_events::store::{StartupError, Store};
use futures_util::future::join_all;
use sqlx::PgConnection;

use crate::support::harness::{Database, Settings, TestServer, eventually};

/// Returns the version of the newest migration.
fn newest() -> i64 {
    let migrations = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).unwrap();
    i64::try_from(migrations.count()).unwrap()
}

fn store(database: &Database) -> Store {
    Store::open(database.connect.clone(), Settings::default().store)
}

async fn run(connection: &mut PgConnection, sql: &'static str) {
    sqlx::raw_sql(sql).execute(connection).await.unwrap();
}

/// Versions of the migrations recorded as applied.
async fn applied(connection: &mut PgConnection) -> Vec<i64> {
    let rows: Vec<(i64,)> = sqlx::query_as("select version from _sqlx_migrations where success order by 1")
        .fetch_all(connection)
        .await
        .unwrap();
    rows.into_iter().map(|(version,)| version).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_start_at_once_on_a_new_database_all_find_the_schema_migrated() {
    let database = Database::empty().await;
    let stores: Vec<Store> = (0..4).map(|_| store(&database)).collect();
    let versions = join_all(stores.iter().map(Store::migrate)).await;
    for version in versions {
        assert_eq!(version.unwrap(), newest());
    }
    let connection = &mut database.connect().await;
    assert_eq!(applied(connection).await, (1..=newest()).collect::<Vec<i64>>());
    TestServer::start_on(Arc::new(database), |_| {})
        .await
        .spirit()
        .await;
}

#[tokio::test]
async fn migrate_refuses_a_database_of_a_newer_version_and_leaves_it_unchanged() {
    let database = Arc::new(Database::empty().await);
    let server = TestServer::start_on(Arc::clone(&database), |_| {}).await;
    let connection = &mut database.connect().await;
    run(
        connection,
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
         values (9000, 'from the future', true, '', 0)",
    )
    .await;
    server.stop().await.unwrap();

    let error = store(&database).migrate().await.unwrap_err();
    assert!(matches!(error, StartupError::Newer(9000)), "{error}");
    let message = error.to_string();
    assert!(
        message.contains("9000") && message.contains("newer version"),
        "{message}"
    );
    assert_eq!(applied(connection).await.last(), Some(&9000));
}

#[tokio::test]
async fn migrate_refuses_an_applied_migration_whose_checksum_differs() {
    let database = Database::empty().await;
    store(&database).migrate().await.unwrap();
    let connection = &mut database.connect().await;
    run(
        connection,
        r"update _sqlx_migrations set checksum = '\x00' where version = 3",
    )
    .await;
    let error = store(&database).migrate().await.unwrap_err();
    assert!(matches!(error, StartupError::Changed(3)), "{error}");
}

#[tokio::test]
async fn a_failed_migration_leaves_nothing_behind_and_the_next_attempt_resumes_with_it() {
    let database = Database::empty().await;
    let connection = &mut database.connect().await;
    // Makes the second migration fail: a relation with the name of its unique index.
    run(connection, "create table uq_events_sequence ()").await;
    let error = store(&database).migrate().await.unwrap_err();
    assert!(matches!(error, StartupError::Failed(_)), "{error}");
    assert_eq!(applied(connection).await, [1]);
    let (created,): (bool,) = sqlx::query_as("select to_regclass('events') is not null")
        .fetch_one(&mut *connection)
        .await
        .unwrap();
    assert!(!created, "the failed migration left a table behind");

    run(connection, "drop table uq_events_sequence").await;
    assert_eq!(store(&database).migrate().await.unwrap(), newest());
    assert_eq!(applied(connection).await, (1..=newest()).collect::<Vec<i64>>());
}

#[tokio::test]
async fn migrate_waits_for_another_migrating_server_and_takes_over_when_that_dies() {
    let database = Database::empty().await;
    let observer = &mut database.connect().await;
    // Takes the advisory lock of a running migration, with the key that sqlx derives from the database name.
    let mut migrating = database.connect().await;
    sqlx::migrate::Migrate::lock(&mut migrating).await.unwrap();
    let waiting = tokio::spawn({
        let store = store(&database);
        async move { store.migrate().await }
    });
    eventually("the migration waits for the lock", async || {
        let waits: Vec<(i32,)> = sqlx::query_as(
            "select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
        )
        .fetch_all(&mut *observer)
        .await
        .unwrap();
        (!waits.is_empty()).then_some(())
    })
    .await;
    drop(migrating); // cuts the connection, as the death of the process would
    assert_eq!(waiting.await.unwrap().unwrap(), newest());
}
