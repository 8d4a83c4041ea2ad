//! `migrate` and `healthcheck`.

use crate::harness::{Place, Server, eventually, finish, signal};

#[tokio::test]
async fn migrate_updates_the_schema_and_exits() {
    let place = Place::new();
    for _ in 0..2 {
        let ended = finish(&mut place.command(&["migrate"])).await.with(0);
        assert_eq!(ended.stdout, "schema is at version 10\n");
        assert!(!place.postmaster_file().exists(), "its PostgreSQL ended with it");
    }
}

#[tokio::test]
async fn migrate_and_serve_refuse_a_database_of_a_newer_version() {
    let place = Place::new();
    let server = Server::start(&place).await;
    sqlx::query(
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
         values (9000, 'from the future', true, '', 0)",
    )
    .execute(&mut place.connect().await)
    .await
    .unwrap();
    server.stop().await;
    for command in ["migrate", "serve"] {
        let ended = finish(&mut place.command(&[command])).await.with(1);
        assert_eq!(ended.stdout, "", "{command}");
        ended.saying(&["error: ", "9000", "newer version"]);
        assert!(!place.postmaster_file().exists(), "its PostgreSQL ended with it");
    }
}

#[tokio::test]
async fn healthcheck_reports_by_its_exit_code_whether_the_server_serves() {
    let place = Place::new();
    let server = Server::start(&place).await;
    for service in [
        "",
        "elephantasm.events.v1.EventService",
        "elephantasm.events.v1.SpiritService",
    ] {
        let ended = server
            .command(&place, &["healthcheck", "--service", service])
            .await;
        assert_eq!(ended.with(0).stdout, "SERVING\n", "{service}");
    }
    let unknown = server.command(&place, &["healthcheck", "--service", "x"]).await;
    unknown.with(1).saying(&["error: "]);
    let addr = server.addr.clone();
    server.stop().await;
    let ended = finish(&mut place.command(&["healthcheck", "--addr", &addr])).await;
    ended.with(1).saying(&["no server answers at", &addr]);
}

#[tokio::test]
async fn healthcheck_reports_not_serving_while_the_database_is_down() {
    let place = Place::new();
    let server = Server::start(&place).await;
    signal(place.postmaster(), "INT").await; // shuts PostgreSQL down while its server runs
    let ended = eventually("healthcheck fails", async || {
        let ended = server.command(&place, &["healthcheck"]).await;
        (ended.code != Some(0)).then_some(ended)
    })
    .await;
    assert_eq!(ended.with(1).stdout, "NOT_SERVING\n");
    server.stop().await;
}
