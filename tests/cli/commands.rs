//! Tests of `migrate` and `healthcheck`.

use std::fs;

use crate::harness::{Server, TestDir, eventually, finish, signal};

#[tokio::test]
async fn migrate_updates_the_schema_and_exits() {
    let test_dir = TestDir::new();
    let migrations = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).unwrap();
    let newest = migrations.count();
    for _ in 0..2 {
        let exited = finish(&mut test_dir.command(&["migrate"])).await.exits_with(0);
        assert_eq!(exited.stdout, format!("schema is at version {newest}\n"));
        assert!(
            !test_dir.postmaster_file().exists(),
            "its PostgreSQL ended with it"
        );
    }
}

#[tokio::test]
async fn migrate_and_serve_refuse_a_database_of_a_newer_version() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    sqlx::query(
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
         values (9000, 'from the future', true, '', 0)",
    )
    .execute(&mut test_dir.connect().await)
    .await
    .unwrap();
    server.stop().await;
    for command in ["migrate", "serve"] {
        let exited = finish(&mut test_dir.command(&[command])).await.exits_with(1);
        assert_eq!(exited.stdout, "", "{command}");
        exited.reports(&["error: ", "9000", "newer version"]);
        assert!(
            !test_dir.postmaster_file().exists(),
            "its PostgreSQL ended with it"
        );
    }
}

#[tokio::test]
async fn healthcheck_reports_by_its_exit_code_whether_the_server_serves() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    for service in [
        "",
        "elephantasm.events.v1.EventService",
        "elephantasm.events.v1.SpiritService",
        "elephantasm.events.v1.AccessService",
    ] {
        let exited = server
            .command(&test_dir, &["healthcheck", "--service", service])
            .await;
        assert_eq!(exited.exits_with(0).stdout, "SERVING\n", "{service}");
    }
    let unknown = server
        .command(&test_dir, &["healthcheck", "--service", "x"])
        .await;
    unknown.exits_with(1).reports(&["error: "]);
    let addr = server.addr.clone();
    server.stop().await;
    let exited = finish(&mut test_dir.command(&["healthcheck", "--addr", &addr])).await;
    exited.exits_with(1).reports(&["no server answers at", &addr]);
}

#[tokio::test]
async fn healthcheck_reports_not_serving_while_the_database_is_down() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    // PostgreSQL ends, and cannot be started again.
    let conf = test_dir.data.join("pgdata/postgresql.conf");
    fs::write(conf, "no_such_parameter = on\n").unwrap();
    signal(test_dir.postmaster(), "INT").await;
    let exited = eventually("healthcheck fails", async || {
        let exited = server.command(&test_dir, &["healthcheck"]).await;
        (exited.code != Some(0)).then_some(exited)
    })
    .await;
    assert_eq!(exited.exits_with(1).stdout, "NOT_SERVING\n");
    server.stop().await;
}
