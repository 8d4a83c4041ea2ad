//! A private PostgreSQL that a test can stop, kill, restart and promote, and its standbys.
//!
//! Dropping a [`Cluster`] stops PostgreSQL and deletes its temporary directory.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use elephantasm_events::embedded_postgres::{EmbeddedPostgres, Options};
use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tempfile::TempDir;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep};

use crate::support::harness::{Database, PATIENCE, eventually, reachable_dir};

/// Data directory, below the directory of an [`EmbeddedPostgres`].
const DATA: &str = "pgdata";
/// Password file, beside the data directory.
const PASSWORD: &str = "password";
/// Database that the service uses; every cluster has it.
const DATABASE: &str = "postgres";
/// Delay before PostgreSQL is started again after a failure.
const RETRY_DELAY: Duration = Duration::from_millis(50);

pub struct Cluster {
    pub database: Arc<Database>,
    options: Options,
    /// Directory of PostgreSQL's binaries.
    bin_dir: PathBuf,
    state: State,
    _dir: Option<TempDir>,
}

enum State {
    Stopped,
    Running(Box<EmbeddedPostgres>),
    /// Recovering, and refusing connections until it is promoted.
    Recovering(JoinHandle<EmbeddedPostgres>),
}

impl Cluster {
    /// Starts a new cluster with these settings besides the defaults, in a temporary directory.
    pub async fn start(settings: &[(&str, &str)]) -> Self {
        let dir = reachable_dir();
        Self::start_in(dir.path().join("data"), settings, Some(dir)).await
    }

    /// Starts a new cluster in the caller's directory.
    pub async fn start_at(dir: PathBuf, settings: &[(&str, &str)]) -> Self {
        Self::start_in(dir, settings, None).await
    }

    async fn start_in(dir: PathBuf, settings: &[(&str, &str)], temporary: Option<TempDir>) -> Self {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let options = Options {
            data_dir: dir,
            bin_dir: std::env::var_os("PG_BIN_DIR").map(Into::into),
            settings: settings.iter().map(owned).collect(),
        };
        let postgres = start(options.clone()).await;
        let connect = postgres.connect_options(DATABASE);
        let mut connection = connect.connect().await.unwrap();
        let (bin_dir,): (String,) = sqlx::query_as("select setting from pg_config where name = 'BINDIR'")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        Self {
            database: Arc::new(Database::external(connect)),
            options,
            bin_dir: bin_dir.into(),
            state: State::Running(postgres.into()),
            _dir: temporary,
        }
    }

    /// Starts a hot standby that streams from this cluster, with these settings; it is read-only until
    /// promoted.
    pub async fn standby(&self, settings: &[(&str, &str)]) -> Self {
        let dir = reachable_dir();
        let data_dir = dir.path().join("data");
        fs::create_dir(&data_dir).unwrap();
        let (uid, gid) = self.owner();
        chown(&data_dir, Some(uid), Some(gid)).unwrap();
        let password = self.options.data_dir.join(PASSWORD);
        fs::copy(&password, data_dir.join(PASSWORD)).unwrap();
        let connect = &self.database.connect;
        let mut copy = self.program("pg_basebackup");
        copy.args([
            "--write-recovery-conf",
            "--checkpoint=fast",
            "--wal-method=stream",
        ])
        .arg("--host")
        .arg(connect.get_socket().unwrap())
        .arg("--username")
        .arg(connect.get_username())
        .arg("--pgdata")
        .arg(data_dir.join(DATA))
        .env("PGPASSWORD", fs::read_to_string(password).unwrap().trim());
        run_to_success(copy).await;
        Self::start_in(data_dir, settings, Some(dir)).await
    }

    /// Connect options over TCP, through a proxy in front of the [`socket`](Self::socket).
    pub fn connect_through(&self, addr: std::net::SocketAddr) -> PgConnectOptions {
        let password = fs::read_to_string(self.options.data_dir.join(PASSWORD)).unwrap();
        PgConnectOptions::new_without_pgpass()
            .host(&addr.ip().to_string())
            .port(addr.port())
            .username(self.database.connect.get_username())
            .password(password.trim())
            .ssl_mode(PgSslMode::Disable)
            .database(DATABASE)
    }

    /// Path of the Unix socket.
    pub fn socket(&self) -> PathBuf {
        let connect = &self.database.connect;
        let name = format!(".s.PGSQL.{}", connect.get_port());
        connect.get_socket().unwrap().join(name)
    }

    /// Shuts PostgreSQL down in order, as `pg_ctl stop` does.
    pub async fn stop(&mut self) {
        self.take().stop().await.unwrap();
    }

    /// Stops PostgreSQL at once, as `pg_ctl stop -m immediate` does; the next start recovers.
    pub async fn stop_immediate(&mut self) {
        let postgres = self.take();
        signal("QUIT", postgres.pid()).await;
        postgres.stop().await.unwrap();
    }

    /// Kills PostgreSQL; returns once all its processes have ended.
    pub async fn kill(&mut self) {
        let postgres = self.take();
        let pid = postgres.pid().to_string();
        let backends: Vec<String> = processes()
            .await
            .into_iter()
            .filter(|[_, parent]| *parent == pid)
            .map(|[pid, _]| pid)
            .collect();
        signal("KILL", postgres.pid()).await;
        eventually("the backends end", async || {
            let alive = processes().await;
            let has_ended = |backend: &String| alive.iter().all(|[pid, _]| pid != backend);
            backends.iter().all(has_ended).then_some(())
        })
        .await;
        postgres.stop().await.unwrap();
    }

    /// Starts PostgreSQL again; returns once it accepts connections.
    pub async fn run(&mut self) {
        self.state = State::Running(start(self.options.clone()).await.into());
    }

    /// Starts PostgreSQL again in recovery, in which it refuses connections until it is promoted.
    pub async fn run_in_recovery(&mut self) {
        fs::write(self.data().join("standby.signal"), "").unwrap();
        let mut options = self.options.clone();
        options
            .settings
            .push(("hot_standby".to_owned(), "off".to_owned()));
        self.state = State::Recovering(tokio::spawn(start(options)));
        eventually("PostgreSQL refuses connections during recovery", async || {
            let refused = self.database.connect.connect().await.err()?;
            let code = refused.as_database_error()?.code()?;
            (code == "57P03").then_some(())
        })
        .await;
    }

    /// Ends recovery; PostgreSQL accepts writes afterwards.
    pub async fn promote(&mut self) {
        let mut promote = self.program("pg_ctl");
        promote.args(["promote", "-w", "-D"]).arg(self.data());
        run_to_success(promote).await;
        self.state = match std::mem::replace(&mut self.state, State::Stopped) {
            State::Recovering(started) => State::Running(started.await.unwrap().into()),
            state => state,
        };
    }

    /// Takes the running PostgreSQL out, to stop it.
    fn take(&mut self) -> EmbeddedPostgres {
        match std::mem::replace(&mut self.state, State::Stopped) {
            State::Running(postgres) => *postgres,
            _ => panic!("PostgreSQL is not running"),
        }
    }

    fn data(&self) -> PathBuf {
        self.options.data_dir.join(DATA)
    }

    /// User and group that own the data and run PostgreSQL.
    fn owner(&self) -> (u32, u32) {
        let metadata = self.data().metadata().unwrap();
        (metadata.uid(), metadata.gid())
    }

    /// A command for one of PostgreSQL's binaries, run as the owner of the data.
    fn program(&self, name: &str) -> Command {
        let (uid, gid) = self.owner();
        let mut command = Command::new(self.bin_dir.join(name));
        command.uid(uid).gid(gid).current_dir("/");
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let State::Running(postgres) = std::mem::replace(&mut self.state, State::Stopped) else {
            return;
        };
        // Drop cannot block on the test's own runtime.
        let stopped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(postgres.stop()).unwrap();
        });
        let stopped = stopped.join();
        assert!(stopped.is_ok() || std::thread::panicking());
    }
}

/// Starts PostgreSQL, with retries: a start fails while backends of a killed predecessor are still ending.
async fn start(options: Options) -> EmbeddedPostgres {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match EmbeddedPostgres::start(options.clone()).await {
            Ok(postgres) => return postgres,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        sleep(RETRY_DELAY).await;
    }
}

async fn run_to_success(mut command: Command) {
    let output = spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{output:?}");
}

async fn signal(name: &str, pid: u32) {
    let mut kill = Command::new("kill");
    kill.args(["-s", name, &pid.to_string()]);
    run_to_success(kill).await;
}

/// Process id and parent process id of every process.
async fn processes() -> Vec<[String; 2]> {
    let listed = tokio::process::Command::new("ps")
        .args(["-A", "-o", "pid=,ppid="])
        .output();
    let text = String::from_utf8(listed.await.unwrap().stdout).unwrap();
    let pair = |line: &str| {
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
            .try_into()
    };
    text.lines().map(|line| pair(line).unwrap()).collect()
}
