//! `--help`, `--version`, and settings that cannot be used.

use std::collections::BTreeSet;

use crate::harness::{Ended, Place, finish};

const README: &str = include_str!("../../README.md");
const COMMANDS: [&str; 8] = [
    "serve",
    "migrate",
    "key",
    "import",
    "replay",
    "tail",
    "bench",
    "healthcheck",
];

/// The pieces of a text that start so and go on with characters of a name.
fn named<'t>(text: &'t str, start: &str) -> BTreeSet<&'t str> {
    text.match_indices(start)
        .map(|(at, _)| {
            let name = &text[at..];
            let end = name
                .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-'))
                .unwrap_or(name.len());
            &name[..end]
        })
        .filter(|name| name.contains(char::is_alphabetic))
        .collect()
}

/// The options of a help text, each with what is said of it.
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
    let ended = finish(&mut Place::new().command(arguments)).await.with(0);
    assert_eq!(ended.stderr, "");
    ended.stdout
}

#[tokio::test]
async fn help_lists_every_setting_with_its_variable_and_default() {
    let (serve, short) = (help(&["serve", "--help"]).await, help(&["--help"]).await);
    assert!(options(&serve).len() > 10, "{serve}");
    for (name, said) in options(&serve) {
        assert!(said.contains("[env: "), "--{name} has no variable: {said}");
        assert!(
            said.contains("[default:") || name == "database-url",
            "--{name} has no default: {said}"
        );
        assert!(
            short.contains(&format!("--{name} ")) || short.contains(&format!("--{name}\n")),
            "--{name} in --help without a command"
        );
    }
    for command in COMMANDS {
        assert!(short.contains(&format!("  {command} ")), "{command}");
    }
}

#[tokio::test]
async fn the_readme_names_exactly_the_settings_that_there_are() {
    let table = README
        .split_once("## Settings")
        .unwrap()
        .1
        .split_once("## Errors")
        .unwrap()
        .0;
    let mut flags = BTreeSet::new();
    let mut variables = BTreeSet::new();
    for command in COMMANDS {
        let help = help(&[command, "--help"]).await;
        for (name, said) in options(&help) {
            if let Some((_, variable)) = said.split_once("[env: ") {
                flags.insert(format!("--{name}"));
                variables.insert(variable.split(['=', ']']).next().unwrap().to_owned());
            }
        }
    }
    let flags: BTreeSet<&str> = flags.iter().map(String::as_str).collect();
    assert_eq!(named(table, "--"), flags);
    for variable in variables {
        assert!(table.contains(&format!("`{variable}`")), "{variable}");
    }
}

#[tokio::test]
async fn the_readme_lists_every_command() {
    let table = README.split_once("## Commands").unwrap().1;
    let table = table.split_once("## Settings").unwrap().0;
    for command in COMMANDS {
        assert!(
            table.contains(&format!("`elephantasm-events {command}")),
            "{command}"
        );
    }
}

#[tokio::test]
async fn version_is_that_of_the_package() {
    let expected = format!("elephantasm-events {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(help(&["--version"]).await, expected);
}

#[tokio::test]
async fn settings_that_cannot_be_used_end_with_code_2_and_a_clear_message() {
    for (name, arguments, words) in [
        ("an unknown flag", &["--colour", "red"][..], &["--colour"][..]),
        ("an unknown command", &["dance"], &["dance"]),
        ("no number", &["--pool-size", "many"], &["--pool-size", "many"]),
        (
            "below the bound",
            &["--pool-size", "0"],
            &["--pool-size", "1..=1000"],
        ),
        ("no value", &["--pool-size"], &["--pool-size", "value"]),
        (
            "no address",
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
        ("a filter that cannot be read", &["--log", "a=b=c"], &["--log"]),
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
        let ended = finish(&mut Place::new().command(arguments)).await;
        assert_eq!(
            (ended.code, ended.stdout.as_str()),
            (Some(2), ""),
            "{name}: {ended:?}"
        );
        ended.saying(words);
    }
}

#[tokio::test]
async fn a_variable_is_checked_as_its_flag_is() {
    let ended = finish(Place::new().command(&[]).env("EVENTS_POOL_SIZE", "many")).await;
    ended.with(2).saying(&["--pool-size", "many"]);
}

#[tokio::test]
async fn a_database_url_that_cannot_be_read_is_refused_without_showing_it() {
    const SECRET: &str = "hunter2";
    fn shows_nothing(ended: Ended) {
        assert!(!format!("{ended:?}").contains(SECRET), "{ended:?}");
    }
    for url in [
        "mysql://ada:hunter2@localhost/events",
        "hunter2",
        "postgres://ada:hunter2@localhost:port/events",
        "postgres://ada:hunter2@localhost/events?sslmode=hunter2",
    ] {
        for command in ["serve", "migrate"] {
            let place = Place::new();
            let by_variable = finish(place.command(&[command]).env("DATABASE_URL", url)).await;
            shows_nothing(
                by_variable
                    .with(2)
                    .saying(&["DATABASE_URL", "postgres://user:password@"]),
            );
            let by_flag = finish(&mut place.command(&[command, "--database-url", url])).await;
            shows_nothing(by_flag.with(2).saying(&["DATABASE_URL"]));
            assert!(!place.data.exists(), "no private PostgreSQL in its stead");
        }
    }
    let url = "postgres://ada:hunter2@localhost/events";
    let help = finish(Place::new().command(&["--help"]).env("DATABASE_URL", url)).await;
    shows_nothing(help.with(0));
}

#[tokio::test]
async fn a_standby_is_refused_without_the_database_that_it_copies_and_not_shown() {
    for (url, words) in [
        (
            "postgres://ada:hunter2@localhost/events",
            &["needs DATABASE_URL"][..],
        ),
        ("mysql://ada:hunter2@localhost/events", &["READ_DATABASE_URL"]),
    ] {
        let place = Place::new();
        let ended = finish(place.command(&["serve"]).env("READ_DATABASE_URL", url)).await;
        assert!(!format!("{ended:?}").contains("hunter2"), "{ended:?}");
        ended.with(2).saying(words);
        assert!(!place.data.exists(), "no private PostgreSQL in its stead");
    }
}
