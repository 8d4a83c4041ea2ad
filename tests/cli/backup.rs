//! Runs the commands of docs/operations.md for backup and restore exactly as printed.

use std::path::{Path, PathBuf};

use elephantasm_events::grpc::pb::event_service_client::EventServiceClient;
use elephantasm_events::grpc::pb::{CreateEventRequest, Event, ListEventsRequest};
use tokio::process::Command;
use tonic::transport::Channel;

use crate::harness::{Exited, Server, TestDir, event, finish};

const HANDBOOK: &str = include_str!("../../docs/operations.md");

/// The commands in the block of the handbook that follows the comment `<!-- tested: MARK -->`.
fn commands(mark: &str) -> &'static str {
    let (_, section) = HANDBOOK
        .split_once(&format!("<!-- tested: {mark} -->\n```sh\n"))
        .unwrap_or_else(|| panic!("no block {mark}"));
    section.split_once("```").unwrap().0
}

/// A `PATH` with the directories of the binary and of PostgreSQL's client programs.
fn path() -> std::ffi::OsString {
    let mut dirs: Vec<PathBuf> = std::env::var_os("PG_BIN_DIR")
        .into_iter()
        .map(PathBuf::from)
        .collect();
    let binary = Path::new(env!("CARGO_BIN_EXE_elephantasm-events"));
    dirs.push(binary.parent().unwrap().to_owned());
    dirs.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
    for version in std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten() {
        dirs.push(version.unwrap().path().join("bin"));
    }
    std::env::join_paths(dirs).unwrap()
}

/// Runs lines of the handbook in a shell.
async fn run_in_shell(dir: &Path, environment: &[(&str, &str)], lines: &str) -> Exited {
    finish(
        Command::new("bash")
            .args(["-euo", "pipefail", "-c", lines])
            .current_dir(dir)
            .env_clear()
            .env("PATH", path())
            .envs(environment.iter().copied()),
    )
    .await
}

/// The variables `DATABASE_URL` and `RESTORED_URL` for the private PostgreSQL of a test.
async fn environment(test_dir: &TestDir) -> [(&'static str, String); 2] {
    let data = test_dir.data.to_str().unwrap();
    let url = format!("{}printf %s \"$DATABASE_URL\"", commands("private"));
    let url = run_in_shell(test_dir.path(), &[("EVENTS_DATA_DIR", data)], &url).await;
    let url = url.exits_with(0).stdout;
    let restored = url.replace("/events?", "/restored?");
    [("DATABASE_URL", url), ("RESTORED_URL", restored)]
}

async fn all_events(events: &mut EventServiceClient<Channel>, spirit_id: &str) -> Vec<Event> {
    let request = ListEventsRequest {
        spirit_id: spirit_id.to_owned(),
        ..ListEventsRequest::default()
    };
    events.list_events(request).await.unwrap().into_inner().events
}

#[tokio::test]
async fn a_dump_of_a_running_service_restores_every_event_and_continues_its_sequences() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let spirit_id = server.spirit("Ada").await;
    let mut events = server.events().await;
    let keyed = |key: &str| CreateEventRequest {
        dedupe_key: Some(key.to_owned()),
        ..event(&spirit_id)
    };
    for number in 0..10 {
        events.create_event(keyed(&number.to_string())).await.unwrap();
    }
    let before = all_events(&mut events, &spirit_id).await;

    let environment = environment(&test_dir).await;
    let environment: Vec<_> = environment
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    run_in_shell(test_dir.path(), &environment, commands("backup"))
        .await
        .exits_with(0);
    events.create_event(keyed("after the dump")).await.unwrap();
    run_in_shell(test_dir.path(), &environment, commands("restore"))
        .await
        .exits_with(0);
    let checked = run_in_shell(test_dir.path(), &environment, commands("check"))
        .await
        .exits_with(0);
    assert_eq!(checked.stdout, "0\n");

    let mut command = test_dir.command(&["serve"]);
    let restored_server = Server::run(&TestDir::new(), command.env("DATABASE_URL", environment[1].1)).await;
    let mut events = restored_server.events().await;
    assert_eq!(all_events(&mut events, &spirit_id).await, before);
    assert!(
        events.create_event(keyed("3")).await.is_err(),
        "dedupe keys are restored"
    );
    let next = events.create_event(keyed("new")).await.unwrap().into_inner();
    assert_eq!(next.event.unwrap().sequence, 11, "sequences continue");
    restored_server.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn keys_that_were_revoked_after_a_dump_are_revoked_in_its_copy_by_the_commands_of_the_handbook() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let key = async |arguments: &[&str]| {
        let exited = finish(&mut test_dir.command(arguments)).await.exits_with(0);
        exited.stdout.trim_end().to_owned()
    };
    let create = ["key", "create", "--name", "x", "--role", "reader"];
    let (revoked, kept) = (key(&create).await, key(&create).await);
    let environment = environment(&test_dir).await;
    let environment: Vec<_> = environment
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    for lines in [commands("backup"), commands("restore")] {
        run_in_shell(test_dir.path(), &environment, lines)
            .await
            .exits_with(0);
        key(&["key", "revoke", &revoked]).await;
    }

    let live_keys = async || {
        let mut list = test_dir.command(&["key", "list"]);
        let listed = finish(list.env("DATABASE_URL", environment[1].1))
            .await
            .exits_with(0);
        let live = listed.stdout.lines().filter(|line| line.contains("  live  "));
        live.map(|line| line.split(' ').next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(live_keys().await.len(), 2, "the copy has both keys");
    run_in_shell(test_dir.path(), &environment, commands("revoked"))
        .await
        .exits_with(0);
    let (kept, _) = kept.rsplit_once('_').unwrap();
    assert_eq!(live_keys().await, [kept]);
    server.stop().await;
}

#[tokio::test]
async fn the_check_in_the_handbook_detects_a_missing_event_in_a_copy() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let spirit_id = server.spirit("Ada").await;
    server.create_events(&spirit_id, 3).await;
    sqlx::query("delete from events where sequence = 2")
        .execute(&mut test_dir.connect().await)
        .await
        .unwrap();
    let data = test_dir.data.to_str().unwrap();
    let lines = format!(
        "{}RESTORED_URL=$DATABASE_URL\n{}",
        commands("private"),
        commands("check")
    );
    let checked = run_in_shell(test_dir.path(), &[("EVENTS_DATA_DIR", data)], &lines)
        .await
        .exits_with(0);
    assert_eq!(checked.stdout, "1\n");
    server.stop().await;
}
