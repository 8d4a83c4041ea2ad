//! Tests of passwords and API keys as settings: read from files and variables, and never shown.

use crate::harness::{TestDir, finish};

/// A password and a malformed API key, which no output may contain.
const SECRET: &str = "hunter2";

/// A description, arguments, environment variables, and texts of the expected error.
type SecretCase<'a> = (&'a str, &'a [&'a str], &'a [(&'a str, &'a str)], &'a [&'a str]);

/// Asserts that a command with unusable secrets fails with code 2 and this error, and shows no secret in its error or
/// its help.
async fn assert_secret_is_not_shown(
    test_dir: &TestDir,
    (description, arguments, variables, words): SecretCase<'_>,
) {
    let mut command = test_dir.command(arguments);
    command.envs(variables.iter().copied());
    let exited = finish(&mut command).await;
    assert_eq!(
        (exited.code, exited.stdout.as_str()),
        (Some(2), ""),
        "{description}: {exited:?}"
    );
    assert!(!exited.stderr.contains(SECRET), "{description}: {exited:?}");
    exited.reports(words);
    command.arg("--help");
    let help = finish(&mut command).await.exits_with(0);
    assert!(!help.stdout.contains(SECRET), "{description}: {help:?}");
    assert!(
        !test_dir.data.exists(),
        "{description}: a private PostgreSQL was created instead"
    );
}

#[tokio::test]
async fn database_urls_are_also_read_from_files_and_never_shown() {
    let test_dir = TestDir::new();
    let url = test_dir.file("url", "postgres://ada:hunter2@localhost:port/events\n");
    let good = test_dir.file("good", "postgres://ada:hunter2@127.0.0.1:1/events\n");
    let missing = test_dir.path().join("missing").to_str().unwrap().to_owned();
    let cases: [SecretCase; 5] = [
        (
            "an invalid URL",
            &["serve"],
            &[("DATABASE_URL_FILE", &url)],
            &["DATABASE_URL"],
        ),
        (
            "an invalid URL for migrations",
            &["migrate", "--database-url-file", &good],
            &[("MIGRATION_DATABASE_URL_FILE", &url)],
            &["MIGRATION_DATABASE_URL"],
        ),
        (
            "an invalid URL for the key command",
            &["key", "list"],
            &[("DATABASE_URL_FILE", &url)],
            &["DATABASE_URL"],
        ),
        (
            "both a URL and a file",
            &["serve"],
            &[
                ("DATABASE_URL_FILE", &url),
                ("DATABASE_URL", "postgres://ada:hunter2@localhost/events"),
            ],
            &["--database-url", "--database-url-file"],
        ),
        (
            "a missing file",
            &["serve", "--database-url-file", &missing],
            &[],
            &["missing", "No such file"],
        ),
    ];
    for case in cases {
        assert_secret_is_not_shown(&test_dir, case).await;
    }
}

#[tokio::test]
async fn api_keys_are_also_read_from_files_and_never_shown() {
    let test_dir = TestDir::new();
    let malformed = test_dir.file("malformed", SECRET);
    let missing = test_dir.path().join("missing").to_str().unwrap().to_owned();
    let replay = ["replay", "--spirit", "Ada", "--session", "s"];
    let cases: [SecretCase; 4] = [
        (
            "a malformed key",
            &replay,
            &[("EVENTS_API_KEY", SECRET)],
            &["API key", "ek_"],
        ),
        (
            "a malformed key in a file",
            &replay,
            &[("EVENTS_API_KEY_FILE", &malformed)],
            &["API key", "ek_"],
        ),
        (
            "a missing file",
            &replay,
            &[("EVENTS_API_KEY_FILE", &missing)],
            &["missing", "No such file"],
        ),
        (
            "both a key and a file",
            &replay,
            &[("EVENTS_API_KEY_FILE", &malformed), ("EVENTS_API_KEY", SECRET)],
            &["--api-key-file", "EVENTS_API_KEY"],
        ),
    ];
    for case in cases {
        assert_secret_is_not_shown(&test_dir, case).await;
    }
}
