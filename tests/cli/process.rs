//! The life cycle of the server process: start, logs, signals.

use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::{Server, TestDir, event, eventually, finish};

#[tokio::test]
async fn serve_prints_one_line_to_stdout_and_logs_text_to_stderr() {
    let test_dir = TestDir::without_database();
    let mut server = Server::start(&test_dir).await;
    assert!(server.addr.starts_with("127.0.0.1:") && !server.addr.ends_with(":0"));
    server.channel().await;
    server.signal("TERM").await;
    assert_eq!(
        server.wait_for_exit().await,
        (Some(0), String::new()),
        "{}",
        server.log()
    );
    let log = server.log();
    assert!(log.lines().count() >= 3, "{log}");
    assert!(log.lines().all(|line| line.contains(" INFO ")), "{log}");
    assert!(!log.contains('\u{1b}'), "no colours where there is no terminal");
}

#[tokio::test]
async fn with_log_format_json_every_log_line_is_a_json_object() {
    let test_dir = TestDir::without_database();
    let mut server = Server::run(
        &test_dir,
        &mut test_dir.command(&["serve", "--log-format", "json"]),
    )
    .await;
    server.signal("INT").await;
    assert_eq!(server.wait_for_exit().await.0, Some(0));
    let log = server.log();
    assert!(log.lines().count() >= 3, "{log}");
    for line in log.lines() {
        let object: serde_json::Value = serde_json::from_str(line).unwrap();
        for field in ["timestamp", "level", "fields"] {
            assert!(object.get(field).is_some(), "{line}");
        }
    }
}

#[tokio::test]
async fn the_log_contains_neither_event_content_nor_the_database_password() {
    let test_dir = TestDir::new();
    let server = Server::run(&test_dir, &mut test_dir.command(&["serve", "--log", "debug"])).await;
    let request = elephantasm_events::grpc::pb::CreateEventRequest {
        content: Some("a word in confidence".to_owned()),
        ..event(&server.spirit("Ada").await)
    };
    server.events().await.create_event(request).await.unwrap();
    let password = std::fs::read_to_string(test_dir.data.join("password")).unwrap();
    let log = server.log();
    assert!(log.contains("DEBUG"), "{log}");
    assert!(!log.contains("confidence") && !log.contains(&password), "{log}");
    server.stop().await;
}

#[tokio::test]
async fn a_port_in_use_is_reported_before_any_data_is_created() {
    let test_dir = TestDir::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let exited = finish(&mut test_dir.command(&["--listen-addr", &addr])).await;
    exited
        .exits_with(1)
        .reports(&["cannot listen on", &addr, "in use"]);
    assert!(!test_dir.data.exists());
}

#[tokio::test]
async fn sigterm_drains_within_the_limit_despite_connected_clients() {
    const EXIT_TIME_MAX: Duration = Duration::from_secs(10);
    let test_dir = TestDir::new();
    let mut server = Server::run(&test_dir, &mut test_dir.command(&["--drain-timeout", "2s"])).await;
    let silent = TcpStream::connect(&server.addr).await.unwrap();
    let mut health = HealthClient::new(server.channel().await);
    let watch = health.watch(HealthCheckRequest::default()).await.unwrap();
    let mut watch = watch.into_inner();
    watch.message().await.unwrap().unwrap();

    let signalled_at = Instant::now();
    server.signal("TERM").await;
    assert_eq!(
        server.wait_for_exit().await,
        (Some(0), String::new()),
        "{}",
        server.log()
    );
    assert!(
        signalled_at.elapsed() < EXIT_TIME_MAX,
        "{:?}",
        signalled_at.elapsed()
    );
    drop(silent);
    test_dir.postgres_ended().await;
}

#[tokio::test]
async fn sigterm_ends_a_server_without_calls_at_once() {
    let test_dir = TestDir::new();
    let mut server = Server::run(&test_dir, &mut test_dir.command(&["--drain-timeout", "1h"])).await;
    let idle = server.channel().await;
    server.signal("TERM").await;
    assert_eq!(
        server.wait_for_exit().await.0,
        Some(0),
        "an idle connection does not delay the exit"
    );
    drop(idle);
}

#[tokio::test]
async fn a_second_sigterm_ends_the_drain_at_once() {
    let test_dir = TestDir::new();
    let mut server = Server::run(&test_dir, &mut test_dir.command(&["--drain-timeout", "1h"])).await;
    let mut health = HealthClient::new(server.channel().await);
    let watch = health.watch(HealthCheckRequest::default()).await.unwrap();
    server.signal("TERM").await;
    eventually("the drain starts", async || {
        server.log().contains("shutting down").then_some(())
    })
    .await;
    server.signal("TERM").await;
    assert_eq!(server.wait_for_exit().await.0, Some(1), "{}", server.log());
    drop(watch);
    test_dir.postgres_ended().await;
}

#[tokio::test]
async fn sigterm_during_the_start_ends_the_server_which_can_be_started_again() {
    let test_dir = TestDir::new();
    for file in ["password", "pgdata/postmaster.pid"] {
        let mut starting = test_dir.command(&[]).spawn().unwrap();
        eventually(&format!("{file} exists"), async || {
            test_dir.data.join(file).exists().then_some(())
        })
        .await;
        crate::harness::signal(starting.id().unwrap(), "TERM").await;
        let status = tokio::time::timeout(crate::harness::PATIENCE, starting.wait()).await;
        assert_eq!(status.unwrap().unwrap().code(), Some(0));
    }
    Server::start(&test_dir).await.stop().await;
}
