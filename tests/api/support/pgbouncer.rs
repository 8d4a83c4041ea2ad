//! A `PgBouncer` that a test runs before the tests' PostgreSQL, on a socket of its own.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;
use tempfile::TempDir;

use crate::support::harness::{eventually, reachable_dir};

/// When a client gives its server connection back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// When it leaves.
    Session,
    /// After each transaction.
    Transaction,
    /// After each statement, so that there are no transactions of several.
    Statement,
}

/// Lets the settings of our sessions pass, and drops them.
pub const IGNORE: &str = "ignore_startup_parameters = options";

/// How many prepared statements it follows.
pub const FOLLOW: &str = "max_prepared_statements";

/// A running one; ends when it is dropped, and also when the test's process is killed.
pub struct PgBouncer {
    dir: TempDir,
    username: String,
    /// The user to run as, if not this process's.
    user: Option<(u32, u32)>,
    shell: Option<Child>,
}

/// Where its socket is, and its settings.
const RUN: &str = "run";
const CONFIG: &str = "pgbouncer.ini";
/// Names the file of the socket.
const PORT: u16 = 6432;
/// Beside those of PATH: it is a daemon's program.
const PLACES: [&str; 4] = [
    "/usr/sbin",
    "/usr/local/sbin",
    "/opt/homebrew/bin",
    "/opt/homebrew/sbin",
];
/// Users to run as when this process is root, which it refuses; PostgreSQL's own choice is the same.
const USERS: [&str; 2] = ["postgres", "nobody"];
/// Ends its program once stdin ends.
const SHELL: &str = r#""$0" -q "$1" & read -r _; kill -9 $!; wait"#;

/// Where the program is; without it the tests of poolers are skipped, and say so.
pub fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain(PLACES.map(PathBuf::from))
        .map(|dir| dir.join("pgbouncer"))
        .find(|program| program.is_file());
    if found.is_none() {
        eprintln!("SKIPPED: pgbouncer is not installed");
    }
    found
}

/// Whether the program can follow prepared statements, as it does from 1.21 on; from 1.24 on unless told
/// otherwise.
pub fn follows_statements() -> bool {
    let program = program().expect("pgbouncer is installed");
    let output = Command::new(program).arg("--version").output().unwrap();
    let version = String::from_utf8(output.stdout).unwrap();
    let minor = version.split('.').nth(1).unwrap();
    minor.parse::<u32>().unwrap() >= 21
}

impl PgBouncer {
    /// One that gives every client up to so many connections of `postgres` a database. `more` stands in its
    /// settings.
    pub async fn start(postgres: &PgConnectOptions, mode: Mode, pool_size: u32, more: &str) -> Self {
        let dir = reachable_dir();
        let run = dir.path().join(RUN);
        fs::create_dir(&run).unwrap();
        let settings = settings(postgres, mode, pool_size, more, &run);
        fs::write(dir.path().join(CONFIG), settings).unwrap();
        let user = (dir.path().metadata().unwrap().uid() == 0).then(unprivileged);
        if let Some((uid, gid)) = user {
            chown(&run, Some(uid), Some(gid)).unwrap();
        }
        let mut pooler = Self {
            dir,
            username: postgres.get_username().to_owned(),
            user,
            shell: None,
        };
        pooler.run().await;
        pooler
    }

    /// Runs it, at first or again, until it listens.
    pub async fn run(&mut self) {
        let program = program().expect("pgbouncer is installed");
        let log = self.dir.path().join("log");
        let mut command = Command::new("sh");
        command
            .args(["-c", SHELL])
            .args([&program, &self.dir.path().join(CONFIG)])
            .stdin(Stdio::piped())
            .stdout(File::create(&log).unwrap())
            .stderr(File::options().append(true).open(&log).unwrap());
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        self.shell = Some(command.spawn().unwrap());
        let socket = self.dir.path().join(RUN).join(format!(".s.PGSQL.{PORT}"));
        eventually(&format!("pgbouncer listens, see {}", log.display()), async || {
            UnixStream::connect(&socket).ok()
        })
        .await;
    }

    /// Kills it.
    pub fn stop(&mut self) {
        if let Some(mut shell) = self.shell.take() {
            drop(shell.stdin.take());
            shell.wait().unwrap();
        }
    }

    /// The way through it to this database.
    pub fn connect_options(&self, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .socket(self.dir.path().join(RUN))
            .port(PORT)
            .username(&self.username)
            .database(database)
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Clients are not asked for a password: only this process reaches the socket's directory.
fn settings(postgres: &PgConnectOptions, mode: Mode, pool_size: u32, more: &str, run: &Path) -> String {
    let host = match postgres.get_socket() {
        Some(socket) => socket.to_str().unwrap().to_owned(),
        None => postgres.get_host().to_owned(),
    };
    let password = postgres.to_url_lossy().password().unwrap_or("").to_owned();
    let lines = [
        "[databases]".to_owned(),
        format!(
            "* = host={host} port={} user={} password={password}",
            postgres.get_port(),
            postgres.get_username()
        ),
        "[pgbouncer]".to_owned(),
        "auth_type = any".to_owned(),
        format!("unix_socket_dir = {}", run.display()),
        format!("listen_port = {PORT}"),
        format!("pool_mode = {mode:?}").to_lowercase(),
        format!("default_pool_size = {pool_size}"),
        "max_client_conn = 900".to_owned(),
        "server_idle_timeout = 3".to_owned(),
        if follows_statements() && !more.contains(FOLLOW) {
            format!("{FOLLOW} = 0")
        } else {
            String::new()
        },
        more.to_owned(),
    ];
    lines.join("\n") + "\n"
}

fn unprivileged() -> (u32, u32) {
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let ids = |name: &str| {
        let line = passwd
            .lines()
            .find(|line| line.starts_with(&format!("{name}:")))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    USERS.into_iter().find_map(ids).expect("a user that is not root")
}
