//! A PostgreSQL of a test's own, which the test stops, kills, starts again and promotes, and standbys of it.
//!
//! Ends when it is dropped, with its data.

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

/// Below the directory of an [`EmbeddedPostgres`].
const DATA: &str = "pgdata";
const PASSWORD: &str = "password";
/// The database that every cluster has, and the service uses here.
const DATABASE: &str = "postgres";
/// Before another try to start it.
const PAUSE: Duration = Duration::from_millis(50);

pub struct Cluster {
    pub database: Arc<Database>,
    options: Options,
    /// The directory of PostgreSQL's programs.
    programs: PathBuf,
    postgres: Running,
    _dir: Option<TempDir>,
}

enum Running {
    No,
    Yes(Box<EmbeddedPostgres>),
    /// In a recovery in which it lets nobody in.
    Starting(JoinHandle<EmbeddedPostgres>),
}

impl Cluster {
    /// A new one with these settings beside the defaults.
    pub async fn start(settings: &[(&str, &str)]) -> Self {
        let dir = reachable_dir();
        Self::start_in(dir.path().join("data"), settings, Some(dir)).await
    }

    /// The same in a directory of the caller's.
    pub async fn start_at(dir: PathBuf, settings: &[(&str, &str)]) -> Self {
        Self::start_in(dir, settings, None).await
    }

    async fn start_in(dir: PathBuf, settings: &[(&str, &str)], temporary: Option<TempDir>) -> Self {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let options = Options {
            data_dir: dir,
            bin_dir: std::env::var_os("PG_BIN_DIR").map(Into::into),
            settings: settings.iter().map(own).collect(),
        };
        let postgres = start(options.clone()).await;
        let connect = postgres.connect_options(DATABASE);
        let mut connection = connect.connect().await.unwrap();
        let (programs,): (String,) = sqlx::query_as("select setting from pg_config where name = 'BINDIR'")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        Self {
            database: Arc::new(Database::elsewhere(connect)),
            options,
            programs: programs.into(),
            postgres: Running::Yes(postgres.into()),
            _dir: temporary,
        }
    }

    /// A hot standby that streams from this one, with these settings; it is read-only until it is promoted.
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
        succeed(copy).await;
        Self::start_in(data_dir, settings, Some(dir)).await
    }

    /// A way to it over TCP, by way of a proxy before its [`socket`](Self::socket).
    pub fn connect_by(&self, addr: std::net::SocketAddr) -> PgConnectOptions {
        let password = fs::read_to_string(self.options.data_dir.join(PASSWORD)).unwrap();
        PgConnectOptions::new_without_pgpass()
            .host(&addr.ip().to_string())
            .port(addr.port())
            .username(self.database.connect.get_username())
            .password(password.trim())
            .ssl_mode(PgSslMode::Disable)
            .database(DATABASE)
    }

    pub fn socket(&self) -> PathBuf {
        let connect = &self.database.connect;
        let name = format!(".s.PGSQL.{}", connect.get_port());
        connect.get_socket().unwrap().join(name)
    }

    /// Ends it in order, as `pg_ctl stop` does.
    pub async fn stop(&mut self) {
        self.take().stop().await.unwrap();
    }

    /// Ends it at once, as `pg_ctl stop -m immediate` does: its next start recovers.
    pub async fn stop_at_once(&mut self) {
        let postgres = self.take();
        signal("QUIT", postgres.pid()).await;
        postgres.stop().await.unwrap();
    }

    /// Kills it; returns once none of its processes answers any more.
    pub async fn kill(&mut self) {
        let postgres = self.take();
        let pid = postgres.pid().to_string();
        let of_database: Vec<String> = processes()
            .await
            .into_iter()
            .filter(|[_, parent]| *parent == pid)
            .map(|[own, _]| own)
            .collect();
        signal("KILL", postgres.pid()).await;
        eventually("the end of the database's processes", async || {
            let alive = processes().await;
            let has_ended = |own: &String| alive.iter().all(|[pid, _]| pid != own);
            of_database.iter().all(has_ended).then_some(())
        })
        .await;
        postgres.stop().await.unwrap();
    }

    /// Starts it again; returns once it accepts connections.
    pub async fn run(&mut self) {
        self.postgres = Running::Yes(start(self.options.clone()).await.into());
    }

    /// Starts it again in a recovery that lasts, and in which it lets nobody in, until it is promoted.
    pub async fn recover(&mut self) {
        fs::write(self.data().join("standby.signal"), "").unwrap();
        let mut options = self.options.clone();
        options
            .settings
            .push(("hot_standby".to_owned(), "off".to_owned()));
        self.postgres = Running::Starting(tokio::spawn(start(options)));
        eventually("it refuses connections since it recovers", async || {
            let refused = self.database.connect.connect().await.err()?;
            let code = refused.as_database_error()?.code()?;
            (code == "57P03").then_some(())
        })
        .await;
    }

    /// Ends its recovery: from then on it takes writes.
    pub async fn promote(&mut self) {
        let mut promote = self.program("pg_ctl");
        promote.args(["promote", "-w", "-D"]).arg(self.data());
        succeed(promote).await;
        self.postgres = match std::mem::replace(&mut self.postgres, Running::No) {
            Running::Starting(starting) => Running::Yes(starting.await.unwrap().into()),
            running => running,
        };
    }

    fn take(&mut self) -> EmbeddedPostgres {
        match std::mem::replace(&mut self.postgres, Running::No) {
            Running::Yes(postgres) => *postgres,
            _ => panic!("it does not run"),
        }
    }

    fn data(&self) -> PathBuf {
        self.options.data_dir.join(DATA)
    }

    /// Whose the data is, and who runs PostgreSQL.
    fn owner(&self) -> (u32, u32) {
        let metadata = self.data().metadata().unwrap();
        (metadata.uid(), metadata.gid())
    }

    /// One of PostgreSQL's programs, to be run as the owner of the data.
    fn program(&self, name: &str) -> Command {
        let (uid, gid) = self.owner();
        let mut command = Command::new(self.programs.join(name));
        command.uid(uid).gid(gid).current_dir("/");
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let Running::Yes(postgres) = std::mem::replace(&mut self.postgres, Running::No) else {
            return;
        };
        // A drop cannot wait on the test's own runtime.
        let stopped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(postgres.stop()).unwrap();
        });
        let stopped = stopped.join();
        assert!(stopped.is_ok() || std::thread::panicking());
    }
}

/// The backends of a killed one may need a moment to end; until then none starts beside them.
async fn start(options: Options) -> EmbeddedPostgres {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match EmbeddedPostgres::start(options.clone()).await {
            Ok(postgres) => return postgres,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        sleep(PAUSE).await;
    }
}

async fn succeed(mut command: Command) {
    let output = spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{output:?}");
}

async fn signal(name: &str, pid: u32) {
    let mut kill = Command::new("kill");
    kill.args(["-s", name, &pid.to_string()]);
    succeed(kill).await;
}

/// Every process, with its parent.
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
