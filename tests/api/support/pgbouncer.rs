//! A `PgBouncer` in front of the tests' PostgreSQL, on a private socket.

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

/// Pool mode: when a client returns its server connection to the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// When it disconnects.
    Session,
    /// After each transaction.
    Transaction,
    /// After each statement, so that transactions of several statements are impossible.
    Statement,
}

/// Setting with which PgBouncer accepts the startup parameter `options` and drops it.
pub const IGNORE_OPTIONS: &str = "ignore_startup_parameters = options";

/// Name of the setting for the number of prepared statements that PgBouncer tracks per connection.
pub const MAX_PREPARED_STATEMENTS: &str = "max_prepared_statements";

/// A running PgBouncer. Ends when it is dropped, and also when the test's process is killed.
pub struct PgBouncer {
    dir: TempDir,
    username: String,
    /// User and group to run as, if not those of this process.
    user: Option<(u32, u32)>,
    shell: Option<Child>,
}

/// Directory of the socket.
const RUN: &str = "run";
const CONFIG: &str = "pgbouncer.ini";
/// Port, which only names the socket's file.
const PORT: u16 = 6432;
/// Directories to search besides `PATH`, which often lacks those of daemons.
const PROGRAM_DIRS: [&str; 4] = [
    "/usr/sbin",
    "/usr/local/sbin",
    "/opt/homebrew/bin",
    "/opt/homebrew/sbin",
];
/// Users to run as when this process is root, which PgBouncer refuses; the embedded PostgreSQL uses the same
/// list.
const UNPRIVILEGED_USERS: [&str; 2] = ["postgres", "nobody"];
/// Shell script that runs PgBouncer and kills it at the end of stdin.
const SHELL: &str = r#""$0" -q "$1" & read -r _; kill -9 $!; wait"#;

/// Path of the program. Without it the tests of poolers are skipped, which is printed.
pub fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain(PROGRAM_DIRS.map(PathBuf::from))
        .map(|dir| dir.join("pgbouncer"))
        .find(|program| program.is_file());
    if found.is_none() {
        eprintln!("SKIPPED: pgbouncer is not installed");
    }
    found
}

/// Returns true if the program can track prepared statements, which is possible since 1.21 and the default
/// since 1.24.
pub fn supports_prepared_statements() -> bool {
    let program = program().expect("pgbouncer is installed");
    let output = Command::new(program).arg("--version").output().unwrap();
    let version = String::from_utf8(output.stdout).unwrap();
    let minor = version.split('.').nth(1).unwrap();
    minor.parse::<u32>().unwrap() >= 21
}

impl PgBouncer {
    /// Starts PgBouncer in front of `postgres` with up to `pool_size` server connections per database. `more`
    /// is appended to its settings.
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

    /// Runs PgBouncer, the first time or again; returns once it listens.
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

    /// Kills PgBouncer.
    pub fn stop(&mut self) {
        if let Some(mut shell) = self.shell.take() {
            drop(shell.stdin.take());
            shell.wait().unwrap();
        }
    }

    /// Connect options through PgBouncer to this database.
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

/// The pooler in front of PostgreSQL, chosen by `EVENTS_TEST_POOLER`.
pub struct Pooler {
    pub program: PgBouncer,
    /// Whether the service needs its setting `transaction_pooler`.
    pub needs_setting: bool,
}

/// Kind of pooler that the tests run behind, from the environment.
pub fn wanted_pooler() -> Option<String> {
    std::env::var("EVENTS_TEST_POOLER").ok()
}

impl Pooler {
    /// Starts the pooler, if the tests are to run behind one.
    pub async fn start(postgres: &PgConnectOptions) -> Option<Self> {
        // In transaction mode the pool is smaller than what one server uses, so that connections are shared.
        let (mode, pool_size, more) = match wanted_pooler()?.as_str() {
            "transaction" => (Mode::Transaction, 8, String::new()),
            "prepared" => (
                Mode::Transaction,
                8,
                format!("{IGNORE_OPTIONS}\n{MAX_PREPARED_STATEMENTS} = 200"),
            ),
            "session" => (Mode::Session, 50, IGNORE_OPTIONS.to_owned()),
            other => panic!("EVENTS_TEST_POOLER is {other}: none of transaction, prepared, session"),
        };
        Some(Self {
            needs_setting: mode == Mode::Transaction && more.is_empty(),
            program: PgBouncer::start(postgres, mode, pool_size, &more).await,
        })
    }
}

/// Content of the settings file. Clients need no password, since only this process can reach the socket.
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
        if supports_prepared_statements() && !more.contains(MAX_PREPARED_STATEMENTS) {
            format!("{MAX_PREPARED_STATEMENTS} = 0")
        } else {
            String::new()
        },
        more.to_owned(),
    ];
    lines.join("\n") + "\n"
}

/// User and group id of the first existing unprivileged user.
fn unprivileged() -> (u32, u32) {
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let ids = |name: &str| {
        let line = passwd
            .lines()
            .find(|line| line.starts_with(&format!("{name}:")))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    UNPRIVILEGED_USERS
        .into_iter()
        .find_map(ids)
        .expect("a user that is not root")
}
