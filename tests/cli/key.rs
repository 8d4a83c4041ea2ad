//! `key`, what a server does with and without keys, and secrets that nobody gets to see.

use sqlx::Row as _;

use crate::harness::{Ended, Place, Server, eventually, finish};

/// Makes a key and returns it.
async fn create(place: &Place, arguments: &[&str]) -> String {
    let arguments = [&["key", "create", "--name", "ci"], arguments].concat();
    let made = finish(&mut place.command(&arguments)).await.with(0);
    let key = made.stdout.strip_suffix('\n').unwrap().to_owned();
    assert!(
        key.starts_with("ek_") && !key.contains(char::is_whitespace),
        "{made:?}"
    );
    assert!(!made.stderr.contains(&key), "once is enough: {made:?}");
    key
}

fn prefix(key: &str) -> &str {
    key.rsplit_once('_').unwrap().0
}

async fn list(place: &Place) -> Ended {
    finish(&mut place.command(&["key", "list"])).await.with(0)
}

#[tokio::test]
async fn a_key_made_beside_a_running_server_is_taken_until_it_is_revoked() {
    let place = Place::new();
    let server = Server::start(&place).await;
    let spirit_id = server.spirit("Ada").await;
    let key = create(
        &place,
        &["--role", "writer", "--spirit", &spirit_id, "--expires-in", "12h"],
    )
    .await;
    let replay = ["replay", "--spirit", &spirit_id, "--session", "s"];
    eventually("the server asks for a key", async || {
        let ended = server.command(&place, &replay).await;
        (ended.code == Some(1)).then(|| ended.saying(&["Unauthenticated", "authorization: Bearer"]))
    })
    .await;

    let file = place.file("key", format!("{key}\n"));
    let with_file = [&replay[..], &["--api-key-file", &file]].concat();
    server.command(&place, &with_file).await.with(0);
    let mut by_variable = place.command(&replay);
    by_variable
        .env("EVENTS_ADDR", &server.addr)
        .env("EVENTS_API_KEY", &key);
    finish(&mut by_variable).await.with(0);
    let health = server.command(&place, &["healthcheck"]).await.with(0);
    assert_eq!(health.stdout, "SERVING\n", "health needs no key");

    let listed = list(&place).await.stdout;
    for word in [prefix(&key), "writer", "until ", &spirit_id, "ci"] {
        assert!(listed.contains(word), "no {word} in {listed}");
    }
    assert!(!listed.contains(&key));
    for _ in 0..2 {
        let revoked = finish(&mut place.command(&["key", "revoke", prefix(&key)]))
            .await
            .with(0);
        assert!(revoked.stdout.contains("revoked "), "{revoked:?}");
    }
    eventually("the key is refused", async || {
        let ended = server.command(&place, &with_file).await;
        (ended.code == Some(1)).then(|| ended.saying(&["Unauthenticated"]))
    })
    .await;
    server.stop().await;
}

#[tokio::test]
async fn the_first_key_can_come_before_the_first_server() {
    let place = Place::new();
    let key = create(&place, &["--role", "admin"]).await;
    assert!(!place.postmaster_file().exists(), "its PostgreSQL ended with it");
    let server = Server::start(&place).await;
    let import = ["import", "-", "--spirit", "Fern"];
    let line = "{\"event_type\": \"message.in\", \"content\": \"hello\"}\n";
    server
        .command_reading(&place, &import, line)
        .await
        .with(1)
        .saying(&["Unauthenticated"]);
    let file = place.file("key", &key);
    let with_key = [&import[..], &["--api-key-file", &file]].concat();
    server.command_reading(&place, &with_key, line).await.with(0);

    // In the database there is only the hash.
    let rows = sqlx::query("select row_to_json(keys)::text, octet_length(secret_sha256) from keys")
        .fetch_all(&mut place.connect().await)
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
async fn keys_that_cannot_be_made_or_revoked_are_refused_with_a_reason() {
    const UNKNOWN: &str = "0199e1c4-0000-7000-8000-000000000000";
    let place = Place::new();
    let server = Server::start(&place).await;
    for (what, arguments, code, words) in [
        ("no role", &["create", "--name", "x"][..], 2, &["--role"][..]),
        (
            "an unknown role",
            &["create", "--name", "x", "--role", "king"],
            2,
            &["reader", "writer", "admin"],
        ),
        ("no name", &["create", "--role", "reader"], 2, &["--name"]),
        (
            "an empty name",
            &["create", "--role", "reader", "--name", ""],
            2,
            &["--name", "1 to 255"],
        ),
        (
            "no id",
            &["create", "--role", "reader", "--name", "x", "--spirit", "Ada"],
            2,
            &["--spirit", "UUID"],
        ),
        (
            "an unknown spirit",
            &["create", "--role", "reader", "--name", "x", "--spirit", UNKNOWN],
            1,
            &[UNKNOWN, "does not exist"],
        ),
        (
            "no time",
            &[
                "create",
                "--role",
                "reader",
                "--name",
                "x",
                "--expires-in",
                "soon",
            ],
            2,
            &["--expires-in", "90d"],
        ),
        (
            "no time at all",
            &["create", "--role", "reader", "--name", "x", "--expires-in", "0s"],
            2,
            &["--expires-in"],
        ),
        (
            "a time without end",
            &[
                "create",
                "--role",
                "reader",
                "--name",
                "x",
                "--expires-in",
                "999999999999999999d",
            ],
            2,
            &["--expires-in"],
        ),
        ("an unknown key", &["revoke", "ek_000000000000"], 1, &["no key"]),
    ] {
        let arguments = [&["key"], arguments].concat();
        let ended = finish(&mut place.command(&arguments)).await;
        assert_eq!(
            (ended.code, ended.stdout.as_str()),
            (Some(code), ""),
            "{what}: {ended:?}"
        );
        ended.saying(words);
    }
    assert_eq!(list(&place).await.stdout, "", "nothing was made");
    server.stop().await;
}

#[tokio::test]
async fn without_a_key_an_address_that_others_reach_is_refused_unless_told_otherwise() {
    const PUBLIC: &str = "0.0.0.0:0";
    let place = Place::new();
    let refused = finish(&mut place.command(&["--listen-addr", PUBLIC]))
        .await
        .with(2);
    assert_eq!(refused.stdout, "");
    refused.saying(&[
        "error: ",
        "0.0.0.0:",
        "no API key",
        "key create",
        "--insecure-no-auth",
    ]);
    assert!(!place.postmaster_file().exists(), "its PostgreSQL ended with it");

    let mut told = place.command(&["--listen-addr", PUBLIC, "--insecure-no-auth"]);
    Server::run(&place, &mut told).await.stop().await;
    let mut told = place.command(&["--listen-addr", PUBLIC]);
    Server::run(&place, told.env("EVENTS_INSECURE_NO_AUTH", "1"))
        .await
        .stop()
        .await;

    create(&place, &["--role", "reader"]).await;
    let mut guarded = place.command(&["--listen-addr", PUBLIC]);
    let mut server = Server::run(&place, &mut guarded).await;
    server.addr = server.addr.replace("0.0.0.0", "127.0.0.1");
    let replay = ["replay", "--spirit", "Ada", "--session", "s"];
    server
        .command(&place, &replay)
        .await
        .with(1)
        .saying(&["Unauthenticated"]);
    server.stop().await;
}

#[tokio::test]
async fn secrets_come_from_files_too_and_are_never_shown() {
    const SECRET: &str = "hunter2";
    let place = Place::new();
    let url = place.file("url", "postgres://ada:hunter2@localhost:port/events\n");
    let good = place.file("good", "postgres://ada:hunter2@127.0.0.1:1/events\n");
    let no_key = place.file("no-key", "hunter2");
    let missing = place.path().join("missing");
    let missing = missing.to_str().unwrap();
    let replay = ["replay", "--spirit", "Ada", "--session", "s"];
    for (what, arguments, variables, words) in [
        (
            "a URL",
            &["serve"][..],
            &[("DATABASE_URL_FILE", url.as_str())][..],
            &["DATABASE_URL"][..],
        ),
        (
            "a URL around a pooler",
            &["migrate", "--database-url-file", &good],
            &[("MIGRATION_DATABASE_URL_FILE", &url)],
            &["MIGRATION_DATABASE_URL"],
        ),
        (
            "of keys",
            &["key", "list"],
            &[("DATABASE_URL_FILE", &url)],
            &["DATABASE_URL"],
        ),
        (
            "both",
            &["serve"],
            &[
                ("DATABASE_URL_FILE", &url),
                ("DATABASE_URL", "postgres://ada:hunter2@localhost/events"),
            ],
            &["--database-url", "--database-url-file"],
        ),
        (
            "no file",
            &["serve", "--database-url-file", missing],
            &[],
            &["missing", "No such file"],
        ),
        (
            "no key",
            &replay,
            &[("EVENTS_API_KEY", SECRET)],
            &["API key", "ek_"],
        ),
        (
            "no key in the file",
            &replay,
            &[("EVENTS_API_KEY_FILE", &no_key)],
            &["API key", "ek_"],
        ),
        (
            "no file of a key",
            &replay,
            &[("EVENTS_API_KEY_FILE", missing)],
            &["missing", "No such file"],
        ),
        (
            "two keys",
            &replay,
            &[("EVENTS_API_KEY_FILE", &no_key), ("EVENTS_API_KEY", SECRET)],
            &["--api-key-file", "EVENTS_API_KEY"],
        ),
    ] {
        let mut command = place.command(arguments);
        command.envs(variables.iter().copied());
        let ended = finish(&mut command).await;
        assert_eq!(
            (ended.code, ended.stdout.as_str()),
            (Some(2), ""),
            "{what}: {ended:?}"
        );
        assert!(!ended.stderr.contains(SECRET), "{what}: {ended:?}");
        ended.saying(words);
        command.arg("--help");
        let help = finish(&mut command).await.with(0);
        assert!(!help.stdout.contains(SECRET), "{what}: {help:?}");
    }
    assert!(!place.data.exists(), "no private PostgreSQL in its stead");
}

#[tokio::test]
async fn the_log_of_a_server_names_no_key_whatever_it_tells() {
    let place = Place::new();
    let key = create(&place, &["--role", "reader"]).await;
    let mut command = place.command(&["--log", "trace"]);
    let server = Server::run(&place, &mut command).await;
    let file = place.file("key", &key);
    let replay = [
        "replay",
        "--spirit",
        "Ada",
        "--session",
        "s",
        "--api-key-file",
        &file,
    ];
    server
        .command(&place, &replay)
        .await
        .with(1)
        .saying(&["no spirit is named"]);
    let (_, secret) = key.rsplit_once('_').unwrap();
    let wrong = place.file(
        "wrong",
        key.replace(secret, &secret.chars().rev().collect::<String>()),
    );
    let replay = [
        "replay",
        "--spirit",
        "Ada",
        "--session",
        "s",
        "--api-key-file",
        &wrong,
    ];
    server
        .command(&place, &replay)
        .await
        .with(1)
        .saying(&["Unauthenticated"]);
    let log = server.log();
    assert!(log.len() > 1_000, "it tells much");
    let said = log.lines().find(|line| line.contains(secret));
    assert_eq!(said, None);
    server.stop().await;
}
