//! Tests of `key`, and of servers with and without API keys.

use sqlx::Row as _;

use crate::harness::{Exited, Server, TestDir, eventually, finish};

/// Creates an API key and returns it.
async fn create(test_dir: &TestDir, arguments: &[&str]) -> String {
    let arguments = [&["key", "create", "--name", "ci"], arguments].concat();
    let created = finish(&mut test_dir.command(&arguments)).await.exits_with(0);
    let key = created.stdout.strip_suffix('\n').unwrap().to_owned();
    assert!(
        key.starts_with("ek_") && !key.contains(char::is_whitespace),
        "{created:?}"
    );
    assert!(
        !created.stderr.contains(&key),
        "the key is shown twice: {created:?}"
    );
    key
}

fn prefix(key: &str) -> &str {
    key.rsplit_once('_').unwrap().0
}

async fn list(test_dir: &TestDir) -> Exited {
    finish(&mut test_dir.command(&["key", "list"]))
        .await
        .exits_with(0)
}

#[tokio::test]
async fn a_running_server_accepts_a_new_api_key_until_it_is_revoked() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let spirit_id = server.spirit("Ada").await;
    server.spirit("Ada's twin").await;
    let key = create(
        &test_dir,
        &["--role", "writer", "--spirit", "Ada", "--expires-in", "12h"],
    )
    .await;
    let replay = ["replay", "--spirit", &spirit_id, "--session", "s"];
    eventually("the server requires an API key", async || {
        let exited = server.command(&test_dir, &replay).await;
        (exited.code == Some(6)).then(|| exited.reports(&["Unauthenticated", "authorization: Bearer"]))
    })
    .await;

    let file = test_dir.file("key", format!("{key}\n"));
    let with_file = [&replay[..], &["--api-key-file", &file]].concat();
    server.command(&test_dir, &with_file).await.exits_with(0);
    let mut with_variable = test_dir.command(&replay);
    with_variable
        .env("EVENTS_ADDR", &server.addr)
        .env("EVENTS_API_KEY", &key);
    finish(&mut with_variable).await.exits_with(0);
    let health = server.command(&test_dir, &["healthcheck"]).await.exits_with(0);
    assert_eq!(health.stdout, "SERVING\n", "health needs no API key");

    let listed = list(&test_dir).await.stdout;
    for word in [prefix(&key), "writer", "until ", &spirit_id, "ci"] {
        assert!(listed.contains(word), "no {word} in {listed}");
    }
    assert!(!listed.contains(&key));
    for _ in 0..2 {
        let revoked = finish(&mut test_dir.command(&["key", "revoke", prefix(&key)]))
            .await
            .exits_with(0);
        assert!(revoked.stdout.contains("revoked "), "{revoked:?}");
    }
    eventually("the key is refused", async || {
        let exited = server.command(&test_dir, &with_file).await;
        (exited.code == Some(6)).then(|| exited.reports(&["Unauthenticated"]))
    })
    .await;
    server.stop().await;
}

#[tokio::test]
async fn an_api_key_can_be_created_before_the_first_start_of_a_server() {
    let test_dir = TestDir::new();
    let key = create(&test_dir, &["--role", "admin"]).await;
    assert!(
        !test_dir.postmaster_file().exists(),
        "its PostgreSQL ended with it"
    );
    let server = Server::start(&test_dir).await;
    let import = ["import", "-", "--spirit", "Fern"];
    let line = "{\"event_type\": \"message.in\", \"content\": \"hello\"}\n";
    server
        .command_with_stdin(&test_dir, &import, line)
        .await
        .exits_with(6)
        .reports(&["Unauthenticated"]);
    let file = test_dir.file("key", &key);
    let with_key = [&import[..], &["--api-key-file", &file]].concat();
    server
        .command_with_stdin(&test_dir, &with_key, line)
        .await
        .exits_with(0);

    // The database holds only a hash of the secret.
    let rows = sqlx::query("select row_to_json(keys)::text, octet_length(secret_sha256) from keys")
        .fetch_all(&mut test_dir.connect().await)
        .await
        .unwrap();
    assert_eq!(rows.len(), 1);
    let (row, bytes): (String, i32) = (rows[0].get(0), rows[0].get(1));
    assert_eq!(bytes, 32);
    let (_, secret) = key.rsplit_once('_').unwrap();
    assert!(!row.contains(secret), "{row}");
    server.stop().await;
}

#[tokio::test]
async fn key_create_and_revoke_reject_invalid_arguments_with_a_reason() {
    const UNKNOWN: &str = "0199e1c4-0000-7000-8000-000000000000";
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    server.spirit("Ada").await;
    server.spirit("Twin").await;
    let twin = server.spirit("Twin").await;
    let unknown_spirit = format!("create --role reader --name x --spirit {UNKNOWN}");
    for (description, arguments, code, words) in [
        ("no role", "create --name x", 2, &["--role"][..]),
        (
            "an unknown role",
            "create --name x --role king",
            2,
            &["reader", "writer", "admin"],
        ),
        ("no name", "create --role reader", 2, &["--name"]),
        (
            "an empty name",
            "create --role reader --name=",
            2,
            &["--name", "1 to 255"],
        ),
        (
            "an unknown name of a spirit",
            "create --role reader --name x --spirit ada",
            4,
            &["no spirit is named \"ada\""],
        ),
        (
            "a name of several spirits",
            "create --role reader --name x --spirit Twin",
            5,
            &["several spirits are named \"Twin\"", &twin],
        ),
        (
            "an unknown spirit",
            &unknown_spirit,
            4,
            &[UNKNOWN, "does not exist"],
        ),
        (
            "an expiry that is not a duration",
            "create --role reader --name x --expires-in soon",
            2,
            &["--expires-in", "90d"],
        ),
        (
            "an expiry of zero",
            "create --role reader --name x --expires-in 0s",
            2,
            &["--expires-in"],
        ),
        (
            "an expiry out of range",
            "create --role reader --name x --expires-in 999999999999999999d",
            2,
            &["--expires-in"],
        ),
        ("an unknown key", "revoke ek_000000000000", 1, &["no key"]),
        ("no key to revoke", "revoke", 2, &["PREFIX"]),
        (
            "a prefix beside --all",
            "revoke ek_000000000000 --all",
            2,
            &["--all"],
        ),
    ] {
        let arguments: Vec<&str> = ["key"].into_iter().chain(arguments.split(' ')).collect();
        let exited = finish(&mut test_dir.command(&arguments)).await;
        assert_eq!(
            (exited.code, exited.stdout.as_str()),
            (Some(code), ""),
            "{description}: {exited:?}"
        );
        exited.reports(words);
    }
    assert_eq!(list(&test_dir).await.stdout, "", "a key was created");
    server.stop().await;
}

#[tokio::test]
async fn key_revoke_takes_several_keys_passes_over_unknown_ones_and_can_take_all() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let mut keys = Vec::new();
    for _ in 0..4 {
        keys.push(create(&test_dir, &["--role", "reader"]).await);
    }
    let states = async || -> Vec<bool> {
        let lines = list(&test_dir).await.stdout;
        let keys = lines.lines().skip(1); // the heading
        keys.map(|line| line.contains("  revoked ")).collect()
    };

    let (first, third) = (prefix(&keys[0]), prefix(&keys[2]));
    let several = ["key", "revoke", first, "ek_000000000000", third];
    finish(&mut test_dir.command(&several))
        .await
        .exits_with(1)
        .reports(&["ek_000000000000"]);
    assert_eq!(states().await, [true, false, true, false]);

    finish(&mut test_dir.command(&["key", "revoke", "--all"]))
        .await
        .exits_with(0);
    assert_eq!(states().await, [true; 4]);
    server.stop().await;
}

#[tokio::test]
async fn a_public_listen_address_requires_an_api_key_or_the_insecure_no_auth_flag() {
    const PUBLIC: &str = "0.0.0.0:0";
    let test_dir = TestDir::new();
    let refused = finish(&mut test_dir.command(&["--listen-addr", PUBLIC]))
        .await
        .exits_with(2);
    assert_eq!(refused.stdout, "");
    refused.reports(&[
        "error: ",
        "0.0.0.0:",
        "no API key",
        "key create",
        "--insecure-no-auth",
    ]);
    assert!(
        !test_dir.postmaster_file().exists(),
        "its PostgreSQL ended with it"
    );

    let mut insecure = test_dir.command(&["--listen-addr", PUBLIC, "--insecure-no-auth"]);
    Server::run(&test_dir, &mut insecure).await.stop().await;
    let mut insecure = test_dir.command(&["--listen-addr", PUBLIC]);
    Server::run(&test_dir, insecure.env("EVENTS_INSECURE_NO_AUTH", "1"))
        .await
        .stop()
        .await;

    create(&test_dir, &["--role", "reader"]).await;
    let mut guarded = test_dir.command(&["--listen-addr", PUBLIC]);
    let mut server = Server::run(&test_dir, &mut guarded).await;
    server.addr = server.addr.replace("0.0.0.0", "127.0.0.1");
    let replay = ["replay", "--spirit", "Ada", "--session", "s"];
    server
        .command(&test_dir, &replay)
        .await
        .exits_with(6)
        .reports(&["Unauthenticated"]);
    server.stop().await;
}

#[tokio::test]
async fn the_servers_log_contains_no_api_key_even_at_trace() {
    let test_dir = TestDir::new();
    let key = create(&test_dir, &["--role", "reader"]).await;
    let mut command = test_dir.command(&["--log", "trace"]);
    let server = Server::run(&test_dir, &mut command).await;
    let file = test_dir.file("key", &key);
    let replay = ["replay", "--spirit", "Ada", "--session", "s", "--api-key-file"];
    server
        .command(&test_dir, &[&replay[..], &[&file]].concat())
        .await
        .exits_with(4)
        .reports(&["no spirit is named"]);
    let (_, secret) = key.rsplit_once('_').unwrap();
    let wrong = test_dir.file(
        "wrong",
        key.replace(secret, &secret.chars().rev().collect::<String>()),
    );
    server
        .command(&test_dir, &[&replay[..], &[&wrong]].concat())
        .await
        .exits_with(6)
        .reports(&["Unauthenticated"]);
    let log = server.log();
    assert!(log.len() > 1_000, "the log is too short to be at TRACE: {log}");
    let leaking_line = log.lines().find(|line| line.contains(secret));
    assert_eq!(leaking_line, None);
    server.stop().await;
}
