//! Tests of `--help`, `--version`, the documentation of the settings, and invalid settings.

use std::collections::BTreeSet;

use crate::harness::{Exited, TestDir, finish};

const CONFIGURATION: &str = include_str!("../../docs/configuration.md");
const COMMANDS: [&str; 10] = [
    "serve",
    "migrate",
    "key",
    "import",
    "import-elephantasm",
    "export",
    "replay",
    "tail",
    "bench",
    "healthcheck",
];

/// The text of a section of `docs/configuration.md`, its subsections included.
fn section(heading: &str) -> &'static str {
    let (_, section) = CONFIGURATION.split_once(&format!("\n## {heading}\n")).unwrap();
    section
        .split_once("\n## ")
        .map_or(section, |(section, _)| section)
}

/// The names in backticks of a column of a table, such as `` `--tls-cert`, `--tls-key` ``.
fn names(section: &str, column: usize) -> BTreeSet<String> {
    section
        .lines()
        .filter(|line| line.starts_with("| `"))
        .flat_map(|row| row.split('|').nth(column).unwrap().split('`').skip(1).step_by(2))
        .map(str::to_owned)
        .collect()
}

/// The options of a help text, each with its description.
fn options(help: &str) -> Vec<(&str, &str)> {
    let (_, options) = help.split_once("Options:").unwrap();
    options
        .split("\n      --")
        .skip(1)
        .map(|option| {
            let end = option.find([' ', '\n']).unwrap_or(option.len());
            (&option[..end], option)
        })
        .collect()
}

async fn help(arguments: &[&str]) -> String {
    let exited = finish(&mut TestDir::new().command(arguments)).await.exits_with(0);
    assert_eq!(exited.stderr, "");
    exited.stdout
}

#[tokio::test]
async fn help_lists_every_setting_with_its_variable_and_default() {
    let (serve, short) = (help(&["serve", "--help"]).await, help(&["--help"]).await);
    assert!(options(&serve).len() > 10, "{serve}");
    for (name, description) in options(&serve) {
        assert!(
            description.contains("[env: "),
            "--{name} has no variable: {description}"
        );
        assert!(
            description.contains("[default:") || name == "database-url",
            "--{name} has no default: {description}"
        );
        assert!(
            short.contains(&format!("--{name} ")) || short.contains(&format!("--{name}\n")),
            "--{name} is missing from --help without a command"
        );
    }
    for command in COMMANDS {
        assert!(short.contains(&format!("  {command} ")), "{command}");
    }
}

#[tokio::test]
async fn the_documentation_lists_exactly_the_settings_that_exist() {
    let mut flags = BTreeSet::new();
    let mut variables = BTreeSet::new();
    for command in COMMANDS {
        let help = help(&[command, "--help"]).await;
        for (name, description) in options(&help) {
            if let Some((_, variable)) = description.split_once("[env: ") {
                flags.insert(format!("--{name}"));
                variables.insert(variable.split(['=', ']']).next().unwrap().to_owned());
            }
        }
    }
    let settings = section("Settings");
    assert_eq!(names(settings, 1), flags);
    assert_eq!(names(settings, 2), variables);
}

#[tokio::test]
async fn the_version_flag_prints_the_version_of_the_package() {
    let expected = format!("elephantasm-events {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(help(&["--version"]).await, expected);
}

#[tokio::test]
async fn invalid_settings_exit_with_code_2_and_a_clear_message() {
    for (name, arguments, words) in [
        ("an unknown flag", &["--colour", "red"][..], &["--colour"][..]),
        ("an unknown command", &["dance"], &["dance"]),
        ("not a number", &["--pool-size", "many"], &["--pool-size", "many"]),
        (
            "below the minimum",
            &["--pool-size", "0"],
            &["--pool-size", "1..=1000"],
        ),
        ("a missing value", &["--pool-size"], &["--pool-size", "value"]),
        (
            "not an address",
            &["--listen-addr", "nowhere"],
            &["--listen-addr", "nowhere"],
        ),
        (
            "an address without a port",
            &["--listen-addr", "127.0.0.1"],
            &["--listen-addr"],
        ),
        (
            "an unknown pooler",
            &["--pooler", "statement"],
            &["--pooler", "none, transaction"],
        ),
        (
            "an unknown format",
            &["--log-format", "xml"],
            &["xml", "text", "json"],
        ),
        (
            "an origin with a path",
            &["--cors-origin", "https://app.example.com/"],
            &["--cors-origin", "without a path"],
        ),
        ("an invalid log filter", &["--log", "a=b=c"], &["--log"]),
        (
            "an event larger than a message",
            &["--max-content-bytes", "5000000"],
            &["--max-message-bytes (4194304)", "--max-content-bytes (5000000)"],
        ),
        (
            "meta larger than a message",
            &[
                "serve",
                "--max-message-bytes",
                "65536",
                "--max-content-bytes",
                "1",
            ],
            &["--max-message-bytes (65536)", "--max-meta-bytes (65536)"],
        ),
        ("import without a spirit", &["import", "x"], &["--spirit"]),
    ] {
        let exited = finish(&mut TestDir::new().command(arguments)).await;
        assert_eq!(
            (exited.code, exited.stdout.as_str()),
            (Some(2), ""),
            "{name}: {exited:?}"
        );
        exited.reports(words);
    }
}

#[tokio::test]
async fn a_variable_is_checked_like_its_flag() {
    let exited = finish(TestDir::new().command(&[]).env("EVENTS_POOL_SIZE", "many")).await;
    exited.exits_with(2).reports(&["--pool-size", "many"]);
}

#[tokio::test]
async fn an_invalid_database_url_is_refused_without_printing_it() {
    const SECRET: &str = "hunter2";
    fn assert_hides_secret(exited: Exited) {
        assert!(!format!("{exited:?}").contains(SECRET), "{exited:?}");
    }
    for url in [
        "mysql://ada:hunter2@localhost/events",
        "hunter2",
        "postgres://ada:hunter2@localhost:port/events",
        "postgres://ada:hunter2@localhost/events?sslmode=hunter2",
    ] {
        for command in ["serve", "migrate"] {
            let test_dir = TestDir::new();
            let by_variable = finish(test_dir.command(&[command]).env("DATABASE_URL", url)).await;
            assert_hides_secret(
                by_variable
                    .exits_with(2)
                    .reports(&["DATABASE_URL", "postgres://user:password@"]),
            );
            let by_flag = finish(&mut test_dir.command(&[command, "--database-url", url])).await;
            assert_hides_secret(by_flag.exits_with(2).reports(&["DATABASE_URL"]));
            assert!(
                !test_dir.data.exists(),
                "a private PostgreSQL was started instead"
            );
        }
    }
    let url = "postgres://ada:hunter2@localhost/events";
    let help = finish(TestDir::new().command(&["--help"]).env("DATABASE_URL", url)).await;
    assert_hides_secret(help.exits_with(0));
}

#[tokio::test]
async fn a_standby_without_a_primary_is_refused_and_its_url_is_not_printed() {
    for (url, words) in [
        (
            "postgres://ada:hunter2@localhost/events",
            &["needs DATABASE_URL"][..],
        ),
        ("mysql://ada:hunter2@localhost/events", &["READ_DATABASE_URL"]),
    ] {
        let test_dir = TestDir::new();
        let exited = finish(test_dir.command(&["serve"]).env("READ_DATABASE_URL", url)).await;
        assert!(!format!("{exited:?}").contains("hunter2"), "{exited:?}");
        exited.exits_with(2).reports(words);
        assert!(
            !test_dir.data.exists(),
            "a private PostgreSQL was started instead"
        );
    }
}
