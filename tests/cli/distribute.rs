//! Tests of `distribute` on PostgreSQL without Citus, where it has to refuse. `script/citus-test` runs it on a cluster.

use sqlx::migrate::Migrate as _;
use sqlx::{Connection as _, PgConnection};
use tokio::process::Command;
use tokio::time::timeout;

use crate::harness::{Exited, PATIENCE, Server, TestDir, eventually, finish};

/// A server whose private PostgreSQL has a second database, which nothing uses.
async fn server_with_second_database(test_dir: &TestDir) -> Server {
    let server = Server::start(test_dir).await;
    sqlx::query("create database other")
        .execute(&mut test_dir.connect().await)
        .await
        .unwrap();
    server
}

/// Distributes a database of the private PostgreSQL.
fn distribute(test_dir: &TestDir, database: &str) -> Command {
    let url = test_dir.database_url(database);
    test_dir.command(&["distribute", "--database-url", &url])
}

/// Asserts that the command was refused with this code and text, and printed nothing else.
#[track_caller]
fn assert_refused(exited: Exited, code: i32, words: &[&str]) {
    let exited = exited.exits_with(code).reports(words);
    assert_eq!(exited.stdout, "");
}

#[tokio::test]
async fn distribute_refuses_a_database_without_citus_and_leaves_it_empty() {
    let test_dir = TestDir::new();
    let server = server_with_second_database(&test_dir).await;
    for _ in 0..2 {
        let exited = finish(&mut distribute(&test_dir, "other")).await;
        assert_refused(
            exited,
            1,
            &["no extension citus", "create extension citus", "citus_add_node"],
        );
    }
    let mut connection = PgConnection::connect(&test_dir.database_url("other"))
        .await
        .unwrap();
    let (tables,): (i64,) =
        sqlx::query_as("select count(*) from pg_class where relnamespace = 'public'::regnamespace")
            .fetch_one(&mut connection)
            .await
            .unwrap();
    assert_eq!(tables, 0);
    server.stop().await;
}

#[tokio::test]
async fn serve_and_migrate_with_citus_refuse_a_database_without_it() {
    let test_dir = TestDir::new();
    let server = server_with_second_database(&test_dir).await;
    let url = test_dir.database_url("other");
    for command in ["serve", "migrate"] {
        let exited = finish(&mut test_dir.command(&[command, "--citus", "--database-url", &url])).await;
        assert_refused(
            exited,
            1,
            &["--citus", "extension citus", "elephantasm-events distribute"],
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn distribute_refuses_a_database_that_an_instance_uses() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let exited = finish(&mut distribute(&test_dir, "events")).await;
    assert_refused(
        exited,
        5,
        &["connections of elephantasm-events", "stop all instances"],
    );
    server.stop().await;
}

#[tokio::test]
async fn distribute_refuses_a_read_only_database() {
    let test_dir = TestDir::new();
    let server = server_with_second_database(&test_dir).await;
    sqlx::query("alter database other set default_transaction_read_only = on")
        .execute(&mut test_dir.connect().await)
        .await
        .unwrap();
    let exited = finish(&mut distribute(&test_dir, "other")).await;
    assert_refused(exited, 1, &["read-only", "coordinator"]);
    server.stop().await;
}

#[tokio::test]
async fn distribute_waits_for_migrations_under_way() {
    let test_dir = TestDir::new();
    let server = server_with_second_database(&test_dir).await;
    let mut migrating = PgConnection::connect(&test_dir.database_url("other"))
        .await
        .unwrap();
    migrating.lock().await.unwrap();
    let mut child = distribute(&test_dir, "other").spawn().unwrap();
    let mut observer = test_dir.connect().await;
    eventually("the command waits for the lock", async || {
        let (waiting,): (i64,) = sqlx::query_as(
            "select count(*) from pg_stat_activity
             where application_name = 'elephantasm-events distribute' and wait_event_type = 'Lock'",
        )
        .fetch_one(&mut observer)
        .await
        .unwrap();
        (waiting == 1).then_some(())
    })
    .await;
    assert!(child.try_wait().unwrap().is_none());
    migrating.unlock().await.unwrap();
    let status = timeout(PATIENCE, child.wait()).await;
    assert_eq!(status.unwrap().unwrap().code(), Some(1));
    server.stop().await;
}

#[tokio::test]
async fn distribute_rejects_settings_that_cannot_work_with_a_reason() {
    const URL: &str = "postgres://ada:hunter2@localhost/events";
    for (description, arguments, words) in [
        (
            "the private PostgreSQL",
            &["distribute"][..],
            &["needs DATABASE_URL", "coordinator"][..],
        ),
        (
            "no shard",
            &["distribute", "--shards", "0"],
            &["--shards", "1..=64"],
        ),
        (
            "more shards than writers",
            &["distribute", "--shards", "65"],
            &["--shards", "1..=64"],
        ),
        (
            "a pooler and no way around it",
            &["distribute", "--database-url", URL, "--pooler", "transaction"],
            &["needs MIGRATION_DATABASE_URL"],
        ),
    ] {
        let test_dir = TestDir::without_database();
        let exited = finish(&mut test_dir.command(arguments)).await;
        assert!(
            !format!("{exited:?}").contains("hunter2"),
            "{description}: {exited:?}"
        );
        assert_refused(exited, 2, words);
        assert!(
            !test_dir.data.exists(),
            "{description}: a private PostgreSQL was started"
        );
    }
}
