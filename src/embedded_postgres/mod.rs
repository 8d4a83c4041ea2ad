//! A private PostgreSQL for a server without one: found, initialised, started and ended here.
//!
//! Its data stays between runs, in full durability. It listens on a unix socket in a directory that
//! only its user may enter. It ends with this process, however that ends: a watchdog shell holds the
//! other end of a pipe and stops the database once the pipe closes. Knows nothing of the service's
//! schema. Start at [`EmbeddedPostgres::start`].

mod binaries;
mod cluster;
mod owner;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};
use tokio::time::{Instant, sleep};

use binaries::{Binaries, OLDEST_MAJOR};
use cluster::Cluster;

/// Where and how the private PostgreSQL runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Holds everything of it; created if missing.
    pub data_dir: PathBuf,
    /// Its programs; searched for when not given.
    pub bin_dir: Option<PathBuf>,
    /// Further settings of PostgreSQL, by name.
    pub settings: Vec<(String, String)>,
}

/// Why there is no private PostgreSQL.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// No programs of a version that is new enough.
    #[error(
        "no PostgreSQL {OLDEST_MAJOR} or newer was found{0}. Either set DATABASE_URL to a running one, or install it:\n  \
         Debian, Ubuntu:  apt-get install postgresql\n  \
         RHEL, Fedora:    dnf install postgresql-server\n  \
         macOS:           brew install postgresql@17\n  \
         elsewhere:       pip install pgserver, and set PG_BIN_DIR to its pginstall/bin\n\
         or set PG_BIN_DIR to the directory that holds its programs `postgres`, `initdb` and `pg_ctl`"
    )]
    NotFound(String),
    /// Somebody else runs on the data directory.
    #[error("another server is using {0}; stop it, or choose another directory with EVENTS_DATA_DIR")]
    InUse(PathBuf),
    /// The data was made by another major version.
    #[error(
        "the data in {dir} was made by PostgreSQL {data}, but only {found} was found; install PostgreSQL {data}, \
         or move the data with pg_upgrade or pg_dump, or choose another directory with EVENTS_DATA_DIR"
    )]
    OtherVersion {
        /// The data directory.
        dir: PathBuf,
        /// Major version of the data.
        data: u32,
        /// Versions that were found.
        found: String,
    },
    /// A directory that PostgreSQL's user cannot enter.
    #[error(
        "PostgreSQL does not run as root, and its user {user} cannot enter {dir}; choose a directory that everybody \
         may pass through, such as /var/lib/elephantasm-events, with EVENTS_DATA_DIR"
    )]
    Unreachable {
        /// The directory that is closed.
        dir: PathBuf,
        /// Who must enter it.
        user: String,
    },
    /// A file or program that did not work.
    #[error("{doing}")]
    Io {
        /// What was being done.
        doing: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A program of PostgreSQL failed, with its last words.
    #[error("{program} failed:\n{output}")]
    Program {
        /// Its name.
        program: String,
        /// The end of its output.
        output: String,
    },
    /// The database did not come up, or not answer.
    #[error("the private PostgreSQL does not answer: {0}")]
    NoAnswer(String),
}

impl EmbeddedError {
    fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }
}

/// How long recovery after a crash, or the end of an old server, may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at whether it answers or has ended.
const POLL: Duration = Duration::from_millis(10);
const SUPERUSER: &str = "elephantasm";

/// A running private PostgreSQL. Dropping it, or the death of this process, ends it.
#[derive(Debug)]
pub struct EmbeddedPostgres {
    postgres: Child,
    /// Closing it tells the watchdog to stop the database.
    lifeline: Option<ChildStdin>,
    cluster: Cluster,
    /// Held for life: no second server on the same data.
    _lock: File,
}

impl EmbeddedPostgres {
    /// Starts it, initialising the data directory if need be; returns once it accepts connections.
    ///
    /// # Errors
    /// Each says what to do about it.
    pub async fn start(options: Options) -> Result<Self, EmbeddedError> {
        let cluster = tokio::task::spawn_blocking(move || prepare(options))
            .await
            .map_err(|error| EmbeddedError::NoAnswer(error.to_string()))??;
        let (cluster, lock) = cluster;
        let postgres = cluster.spawn()?;
        let lifeline = watch(&cluster, postgres.id())?;
        let mut started = Self {
            postgres,
            lifeline: Some(lifeline),
            cluster,
            _lock: lock,
        };
        started.wait_until_it_answers().await?;
        tracing::info!(
            version = started.cluster.binaries.version,
            data = %started.cluster.dir.display(),
            "private PostgreSQL runs"
        );
        Ok(started)
    }

    /// How to connect to one of its databases.
    #[must_use]
    pub fn connect_options(&self, database: &str) -> PgConnectOptions {
        connect_options(&self.cluster.socket_dir, &self.cluster.password, database)
    }

    /// Makes a database of this name if there is none.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn create_database(&self, name: &str) -> Result<(), EmbeddedError> {
        let mut connection = self.connect("postgres").await?;
        let known: Option<(i32,)> = sqlx::query_as("select 1 from pg_database where datname = $1")
            .bind(name)
            .fetch_optional(&mut connection)
            .await
            .map_err(no_answer)?;
        if known.is_none() {
            let create = format!("create database \"{}\"", name.replace('"', "\"\""));
            sqlx::query(sqlx::AssertSqlSafe(create))
                .execute(&mut connection)
                .await
                .map_err(no_answer)?;
        }
        connection.close().await.map_err(no_answer)
    }

    /// The process id of the postmaster.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.postgres.id()
    }

    /// Ends it by a fast shutdown and waits until it has ended.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn stop(mut self) -> Result<(), EmbeddedError> {
        drop(self.lifeline.take());
        let deadline = Instant::now() + PATIENCE;
        while !self.ended()? {
            if Instant::now() > deadline {
                let pid = self.postgres.id();
                return Err(EmbeddedError::NoAnswer(format!("process {pid} has not ended")));
            }
            sleep(POLL).await;
        }
        self.cluster.remove_socket_dir()
    }

    fn ended(&mut self) -> Result<bool, EmbeddedError> {
        let status = self
            .postgres
            .try_wait()
            .map_err(EmbeddedError::io("cannot look at PostgreSQL's process"))?;
        Ok(status.is_some())
    }

    async fn connect(&self, database: &str) -> Result<PgConnection, EmbeddedError> {
        self.connect_options(database).connect().await.map_err(no_answer)
    }

    async fn wait_until_it_answers(&mut self) -> Result<(), EmbeddedError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let attempt = match self.connect("postgres").await {
                Ok(connection) => return connection.close().await.map_err(no_answer),
                Err(error) => error,
            };
            if self.ended()? {
                return Err(EmbeddedError::Program {
                    program: "postgres".to_owned(),
                    output: self.cluster.log_tail(),
                });
            }
            if Instant::now() > deadline {
                return Err(attempt);
            }
            sleep(POLL).await;
        }
    }
}

/// How to connect to a database of the private PostgreSQL that another process runs on this directory.
///
/// # Errors
/// When nothing of it is there, or it belongs to somebody else.
pub fn running(data_dir: &Path, database: &str) -> Result<PgConnectOptions, EmbeddedError> {
    let (socket_dir, password) = cluster::access(data_dir)?;
    Ok(connect_options(&socket_dir, &password, database))
}

fn connect_options(socket_dir: &Path, password: &str, database: &str) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .socket(socket_dir)
        .port(cluster::PORT)
        .username(SUPERUSER)
        .password(password)
        .ssl_mode(PgSslMode::Disable)
        .database(database)
}

#[allow(clippy::needless_pass_by_value)] // for map_err
fn no_answer(error: sqlx::Error) -> EmbeddedError {
    EmbeddedError::NoAnswer(format!("{:#}", anyhow::Error::new(error)))
}

/// Everything that comes before the start; blocking.
fn prepare(options: Options) -> Result<(Cluster, File), EmbeddedError> {
    let owner = owner::choose(&options.data_dir)?;
    let lock = cluster::lock(&options.data_dir, owner.as_ref())?;
    let data_version = cluster::data_version(&options.data_dir)?;
    let binaries = Binaries::find(options.bin_dir.as_deref(), data_version, &options.data_dir)?;
    let cluster = Cluster::open(options.data_dir, binaries, owner, options.settings)?;
    cluster.stop_old_postmaster(PATIENCE)?;
    Ok((cluster, lock))
}

/// Starts the watchdog, in a process group of its own, so that Ctrl-C in a terminal reaches only the
/// server, which then drains before the database goes.
fn watch(cluster: &Cluster, postmaster: u32) -> Result<ChildStdin, EmbeddedError> {
    // SIGINT asks PostgreSQL for a fast shutdown.
    const SCRIPT: &str = "read -r _; kill -INT \"$1\" 2>/dev/null";
    let mut command = Command::new("/bin/sh");
    command.args(["-c", SCRIPT, "watchdog", &postmaster.to_string()]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let failed = || EmbeddedError::io("cannot start the watchdog of PostgreSQL");
    let mut child = cluster.as_owner(&mut command).spawn().map_err(failed())?;
    child
        .stdin
        .take()
        .ok_or_else(|| failed()(io::ErrorKind::BrokenPipe.into()))
}

/// The stable place of this user's data.
///
/// # Errors
/// When the user has no home.
pub fn default_data_dir() -> Result<PathBuf, EmbeddedError> {
    const NAME: &str = "elephantasm-events";
    if owner::is_root()? {
        return Ok(Path::new("/var/lib").join(NAME));
    }
    if let Some(dir) = std::env::var_os("XDG_DATA_HOME").filter(|dir| !dir.is_empty()) {
        return Ok(Path::new(&dir).join(NAME));
    }
    let home = std::env::home_dir()
        .filter(|home| home.is_absolute())
        .ok_or_else(|| {
            EmbeddedError::io("no place for the data: set EVENTS_DATA_DIR")(io::Error::other(
                "this user has no home",
            ))
        })?;
    let below = if cfg!(target_os = "macos") {
        "Library/Application Support"
    } else {
        ".local/share"
    };
    Ok(home.join(below).join(NAME))
}
