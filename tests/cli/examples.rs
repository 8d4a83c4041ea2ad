//! Runs the examples at the end of each command's `--help`, and compares the RPCs that they call with `docs/cli.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use clap::CommandFactory as _;
use elephantasm_events::cli::Cli;
use elephantasm_events::grpc::pb;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use serde_json::Value;
use tokio::process::Command;

use crate::harness::{Exited, Server, TestDir, eventually, finish};
use crate::import_elephantasm::legacy_database;

const MANUAL: &str = include_str!("../../docs/cli.md");
const BINARY: &str = "elephantasm-events";
/// Columns that clap prints without wrapping a line.
const COLUMNS: usize = 100;
/// Replaces the binary: a server is stopped once it listens.
const WRAPPER: &str = r#"#!/usr/bin/env bash
if [[ ${1-} != serve ]]; then
    exec "$BINARY" "$@"
fi
coproc SERVER { exec "$BINARY" "$@"; }
server=$SERVER_PID
read -r line <&"${SERVER[0]}" && [[ $line == 'listening on '* ]] && kill -s TERM "$server" && wait "$server"
"#;

/// The commands, in the order of `--help`, each group before its commands.
fn commands() -> Vec<(String, clap::Command)> {
    fn add(commands: &mut Vec<(String, clap::Command)>, path: &str, command: &clap::Command) {
        commands.push((path.to_owned(), command.clone()));
        for child in command.get_subcommands() {
            add(
                commands,
                format!("{path} {}", child.get_name()).trim_start(),
                child,
            );
        }
    }
    let mut commands = Vec::new();
    add(&mut commands, "", &Cli::command());
    commands
}

/// The examples of a command, of which there must be two at least.
fn examples(path: &str, command: &clap::Command) -> Vec<String> {
    let help = command
        .get_after_help()
        .map(ToString::to_string)
        .unwrap_or_default();
    let (_, examples) = help
        .split_once("Examples:\n")
        .unwrap_or_else(|| panic!("--help of `{path}` has no examples"));
    let examples: Vec<String> = examples
        .lines()
        .map_while(|line| line.strip_prefix("  "))
        .map(str::to_owned)
        .collect();
    assert!(examples.len() >= 2, "--help of `{path}` needs two examples");
    for example in &examples {
        let is_of_command = example.contains(format!("{BINARY} {path}").trim_end());
        assert!(is_of_command, "{example} is no example of `{path}`");
        assert!(example.len() + 2 <= COLUMNS, "{example} is wrapped");
    }
    examples
}

/// The RPCs of each command in the manual's table, with the names of their services.
fn rpcs_of_commands() -> BTreeMap<String, BTreeSet<String>> {
    let (_, table) = MANUAL.split_once("\n| RPC | command |\n").unwrap();
    let mut rpcs: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for row in table.lines().skip(1).take_while(|line| line.starts_with('|')) {
        let names: Vec<&str> = row.split('`').skip(1).step_by(2).collect();
        let (rpc, commands) = names.split_first().unwrap();
        for command in commands {
            rpcs.entry((*command).to_owned())
                .or_default()
                .insert((*rpc).to_owned());
        }
    }
    rpcs
}

#[test]
fn the_manual_names_a_command_for_every_rpc_and_describes_every_command() {
    let files = FileDescriptorSet::decode(pb::FILE_DESCRIPTOR_SET).unwrap().file;
    let services = files
        .iter()
        .filter(|file| file.package() == "elephantasm.events.v1")
        .flat_map(|file| &file.service);
    let defined: BTreeSet<String> = services
        .flat_map(|service| {
            let rpcs = service.method.iter();
            rpcs.map(move |rpc| format!("{}.{}", service.name(), rpc.name()))
        })
        .collect();
    let listed = rpcs_of_commands();
    assert_eq!(
        listed.values().flatten().cloned().collect::<BTreeSet<_>>(),
        defined
    );
    let commands: Vec<String> = commands().into_iter().map(|(path, _)| path).collect();
    for command in listed.keys() {
        assert!(commands.contains(command), "there is no command `{command}`");
    }
    for command in commands.iter().filter(|command| !command.is_empty()) {
        assert!(
            MANUAL.contains(&format!("| `{command}")),
            "`{command}` is not in the manual"
        );
    }
}

/// A server with data, and what the examples refer to.
struct World {
    test_dir: TestDir,
    server: Server,
    programs: PathBuf,
    variables: Vec<(&'static str, String)>,
}

impl World {
    async fn new() -> Self {
        let test_dir = TestDir::new();
        let server = Server::start(&test_dir).await;
        let programs = test_dir.path().join("programs");
        fs::create_dir(&programs).unwrap();
        fs::write(programs.join(BINARY), WRAPPER).unwrap();
        fs::set_permissions(programs.join(BINARY), Permissions::from_mode(0o755)).unwrap();
        // Commands that open a database have one of their own, since its first API key would close the server.
        sqlx::query("create database examples")
            .execute(&mut test_dir.connect().await)
            .await
            .unwrap();
        legacy_database(&test_dir).await;
        let variables = vec![
            ("DATABASE_URL", test_dir.database_url("examples")),
            ("OLD_DATABASE_URL", test_dir.database_url("legacy")),
        ];
        let mut world = Self {
            test_dir,
            server,
            programs,
            variables,
        };
        world.prepare().await;
        world
    }

    /// Stores the example conversation and sets the variables.
    async fn prepare(&mut self) {
        self.output("import examples/garden.jsonl --spirit Fern").await;
        let create = "event create 'Ask Mira' --spirit Fern --type thought --session notes";
        let event = self.field("id", create).await;
        self.output(&format!("event update {event} --role assistant"))
            .await;
        let gone = self.field("id", create).await;
        let deleted_at = self.field("deleted_at", &format!("event delete {gone}")).await;
        self.variables
            .extend([("EVENT", event), ("DELETED_AT", deleted_at)]);
        for variable in ["SPIRIT", "DELETED_SPIRIT"] {
            let id = self.field("id", &format!("spirit create {variable}")).await;
            self.output(&format!("spirit delete {id}")).await;
            self.variables.push((variable, id));
        }
        let key = self.output("key create --name first --role reader").await;
        self.variables.push(("KEY", key));
    }

    /// Runs a command that must succeed, and returns a field of what it prints.
    async fn field(&self, name: &str, command: &str) -> String {
        let printed: Value = serde_json::from_str(&self.output(&format!("{command} --json")).await).unwrap();
        printed[name].as_str().unwrap().to_owned()
    }

    /// Runs a command that must succeed, and returns its output.
    async fn output(&self, command: &str) -> String {
        let exited = self.run(&format!("{BINARY} {command}")).await.exits_with(0);
        exited.stdout.trim_end().to_owned()
    }

    /// Runs a line in a shell, in the root of the repository.
    async fn run(&self, line: &str) -> Exited {
        let path = format!("{}:{}", self.programs.display(), env::var("PATH").unwrap());
        finish(
            Command::new("bash")
                .args(["-o", "pipefail", "-c", line])
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .env_clear()
                .env("BINARY", env!("CARGO_BIN_EXE_elephantasm-events"))
                .env("EVENTS_ADDR", &self.server.addr)
                .env("EVENTS_LISTEN_ADDR", "127.0.0.1:0")
                .env("HOME", self.test_dir.path())
                .env("PATH", path)
                .envs(self.variables.iter().map(|(name, value)| (name, value)))
                .kill_on_drop(true),
        )
        .await
    }
}

#[tokio::test]
async fn the_examples_of_every_command_succeed_and_call_the_rpcs_of_the_manual() {
    let world = World::new().await;
    let rpcs = rpcs_of_commands();
    for (path, command) in commands() {
        let before = world.server.log().len();
        for example in examples(&path, &command) {
            let exited = world.run(&example).await;
            if path == "distribute" {
                // The database of the examples is not on Citus.
                exited.exits_with(1).reports(&["no extension citus"]);
                continue;
            }
            assert_eq!(exited.code, Some(0), "{example}\n{exited:#?}");
        }
        for rpc in rpcs.get(&path).into_iter().flatten() {
            let method = format!("\"/elephantasm.events.v1.{}\"", rpc.replace('.', "/"));
            eventually(&format!("`{path}` calls {rpc}"), async || {
                world.server.log()[before..].contains(&method).then_some(())
            })
            .await;
        }
    }
    world.server.stop().await;
}
