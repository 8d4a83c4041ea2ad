//! The private PostgreSQL is started again when it dies, also by the next server after `kill -9`, never runs
//! twice on one directory, and keeps a bounded log without content.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use elephantasm_events::grpc::pb::CreateEventRequest;
use tokio::process::Command;
use tokio::time::{sleep, timeout};
use tonic::Streaming;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::harness::{PATIENCE, Server, TestDir, event, eventually, signal};
use crate::load::{Load, assert_all_are_stored};

/// Reads a watch of the health until it reports this status.
async fn wait_for(watch: &mut Streaming<HealthCheckResponse>, wanted: ServingStatus) {
    let reached = timeout(PATIENCE, async {
        while watch.message().await.unwrap().unwrap().status() != wanted {}
    });
    reached
        .await
        .unwrap_or_else(|_| panic!("the health does not become {wanted:?}"));
}

/// Process id of the checkpointer, a child of the postmaster.
async fn checkpointer(test_dir: &TestDir) -> u32 {
    let (pid,): (i32,) =
        sqlx::query_as("select pid from pg_stat_activity where backend_type = 'checkpointer'")
            .fetch_one(&mut test_dir.connect().await)
            .await
            .unwrap();
    pid.try_into().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_postmaster_is_started_again_and_no_acknowledged_event_is_lost() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let spirit_id = server.spirit("Ada").await;
    let load = Load::start(&server, &spirit_id).await;
    let mut health = HealthClient::new(server.channel().await);
    let watch = health.watch(HealthCheckRequest::default()).await.unwrap();
    let mut watch = watch.into_inner();
    wait_for(&mut watch, ServingStatus::Serving).await;
    load.further_creates(40).await;

    let (killed, child) = (test_dir.postmaster(), checkpointer(&test_dir).await);
    // While a process of the old PostgreSQL lives, no new one may start.
    signal(child, "STOP").await;
    signal(killed, "KILL").await;
    wait_for(&mut watch, ServingStatus::NotServing).await;
    assert_eq!(test_dir.postmaster(), killed, "two PostgreSQL use one directory");
    signal(child, "KILL").await;
    wait_for(&mut watch, ServingStatus::Serving).await;
    assert_ne!(test_dir.postmaster(), killed);

    load.further_creates(40).await;
    signal(test_dir.postmaster(), "KILL").await;
    load.further_creates(40).await;
    assert_all_are_stored(&server, &spirit_id, &load.stop().await).await;
    server.stop().await;
    test_dir.postgres_ended().await;
}

#[tokio::test]
async fn a_first_start_that_is_killed_at_any_moment_can_be_repeated_at_once() {
    const ROUNDS: usize = 12;
    const FIRST_START_MILLIS: u64 = 2_000;
    for _ in 0..kill_rounds(ROUNDS) {
        let test_dir = TestDir::without_database();
        let mut command = test_dir.command(&[]);
        let mut first = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let moment = Duration::from_millis(fastrand::u64(..FIRST_START_MILLIS));
        eprintln!("killing the first start after {moment:?}");
        sleep(moment).await; // the moment of the kill is the input of this test
        first.start_kill().unwrap();
        let server = Server::start(&test_dir).await;
        server
            .events()
            .await
            .create_event(event(&server.spirit("Ada").await))
            .await
            .unwrap();
        server.stop().await;
    }
}

/// The file that a process reads as its standard input.
fn stdin_of(pid: u32) -> std::path::PathBuf {
    fs::read_link(format!("/proc/{pid}/fd/0")).unwrap()
}

/// Rounds of a kill and a start, unless `EVENTS_TEST_KILL_ROUNDS` sets another number.
fn kill_rounds(rounds: usize) -> usize {
    std::env::var("EVENTS_TEST_KILL_ROUNDS").map_or(rounds, |rounds| rounds.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_start_right_after_kill_9_under_load_succeeds_and_finds_all_acknowledged_events() {
    const ROUNDS: usize = 20;
    const CREATES_MAX: usize = 60;
    let test_dir = TestDir::new();
    let mut server = Server::start(&test_dir).await;
    let spirit_id = server.spirit("Ada").await;
    let process_lock = test_dir.data.join("processes.lock").canonicalize().unwrap();
    let mut acknowledged = Vec::new();
    for round in 0..kill_rounds(ROUNDS) {
        assert_eq!(stdin_of(test_dir.postmaster()), process_lock, "round {round}");
        let load = Load::start(&server, &spirit_id).await;
        load.further_creates(fastrand::usize(..CREATES_MAX)).await;
        signal(server.pid(), "KILL").await;
        server = Server::start(&test_dir).await; // the old PostgreSQL still runs or shuts down
        acknowledged.extend(load.stop().await);
    }
    assert_all_are_stored(&server, &spirit_id, &acknowledged).await;
    server.stop().await;
    File::open(process_lock)
        .unwrap()
        .try_lock()
        .expect("no process of PostgreSQL is left");
}

/// Starts a process of PostgreSQL's user that is not PostgreSQL.
fn other_program(test_dir: &TestDir) -> tokio::process::Child {
    let owner = fs::metadata(test_dir.data.join("pgdata")).unwrap();
    let mut command = Command::new("sleep");
    command
        .arg("600")
        .uid(owner.uid())
        .gid(owner.gid())
        .kill_on_drop(true);
    command.spawn().unwrap()
}

#[tokio::test]
async fn pid_files_whose_process_id_another_program_has_by_now_do_not_hinder_a_start() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let postmaster = test_dir.postmaster();
    let socket_lock = test_dir.data.join("run/.s.PGSQL.5432.lock");
    let files = [test_dir.postmaster_file(), socket_lock];
    let texts = files.each_ref().map(|file| fs::read_to_string(file).unwrap());
    server.stop().await;
    let other = other_program(&test_dir);
    for (file, text) in files.iter().zip(texts) {
        let stale = text.replacen(&postmaster.to_string(), &other.id().unwrap().to_string(), 1);
        fs::write(file, stale).unwrap();
    }
    Server::start(&test_dir).await.stop().await;
}

fn log_of(test_dir: &TestDir, name: &str) -> String {
    fs::read_to_string(test_dir.data.join(name)).unwrap_or_default()
}

async fn assert_refused(test_dir: &TestDir, sql: &'static str) {
    let refused = sqlx::raw_sql(sql).execute(&mut test_dir.connect().await).await;
    refused.unwrap_err();
}

#[tokio::test]
async fn the_log_of_the_private_postgresql_holds_neither_content_nor_keys() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let request = CreateEventRequest {
        content: Some("content in confidence".to_owned()),
        dedupe_key: Some("key in confidence".to_owned()),
        ..event(&server.spirit("Ada").await)
    };
    server.events().await.create_event(request).await.unwrap();
    assert_refused(
        &test_dir,
        "insert into events (id, spirit_id, sequence, event_type, content, occurred_at, dedupe_key)
         select gen_random_uuid(), spirit_id, 99, event_type, content, occurred_at, dedupe_key
         from events",
    )
    .await;
    assert_refused(&test_dir, "select 'content in confidence' from no_such_table").await;
    server.stop().await;
    let log = log_of(&test_dir, "postgres.log");
    for error in ["uq_events_dedupe_key", "no_such_table"] {
        assert!(log.contains(error), "no {error} in {log}");
    }
    assert!(!log.contains("confidence"), "{log}");
}

/// Appends lines to a file until it has more than this many bytes.
fn fill(path: &Path, bytes: u64) {
    let mut file = OpenOptions::new().append(true).open(path).unwrap();
    let line = [b"x".repeat(1023), b"\n".to_vec()].concat();
    for _ in 0..=bytes / 1024 {
        file.write_all(&line).unwrap();
    }
}

#[tokio::test]
async fn the_log_of_the_private_postgresql_is_rotated_past_10_mib() {
    const LOG_BYTES_MAX: u64 = 10 * 1024 * 1024;
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let log = test_dir.data.join("postgres.log");
    for _ in 0..2 {
        fill(&log, LOG_BYTES_MAX);
        eventually("the log is rotated", async || {
            (fs::metadata(&log).unwrap().len() < LOG_BYTES_MAX).then_some(())
        })
        .await;
        assert_refused(&test_dir, "select 1 from no_such_table").await;
        assert!(log_of(&test_dir, "postgres.log").contains("no_such_table"));
    }
    let logs = fs::read_dir(&test_dir.data).unwrap().filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_string_lossy().starts_with("postgres.log")
    });
    assert_eq!(logs.count(), 2, "one old log is kept");
    server.stop().await;
}
