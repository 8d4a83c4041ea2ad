//! Finds, initialises, supervises and stops a private PostgreSQL for a server without a database URL.
//!
//! The data directory is kept between runs, with full durability. PostgreSQL listens on a unix socket in a
//! directory that only its user may enter. It ends with this process, however the process ends: a watchdog
//! shell holds the read end of a pipe and stops PostgreSQL when the pipe closes. If PostgreSQL itself dies, it
//! is started again. This module does not depend on the schema or any other layer. Start at
//! [`EmbeddedPostgres::start`].

mod binaries;
mod cluster;
mod error;
mod locks;
mod owner;
mod pid_files;
mod supervisor;
mod watchdog;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};
use tokio::time::{Instant, sleep};

use binaries::Binaries;
use cluster::Cluster;
use error::no_answer;
use supervisor::Supervisor;

pub use error::EmbeddedError;

/// Options of a private PostgreSQL.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory of the data, the password, the log and the socket; created if missing.
    pub data_dir: PathBuf,
    /// Directory of PostgreSQL's programs; searched for if absent.
    pub bin_dir: Option<PathBuf>,
    /// Further settings of PostgreSQL, by name.
    pub settings: Vec<(String, String)>,
}

/// Time limit for a start of PostgreSQL, recovery after a crash included, and for its end.
const PATIENCE: Duration = Duration::from_secs(60);
/// Interval between attempts to connect to a starting PostgreSQL, and between checks for the end of a
/// stopping one.
const POLL: Duration = Duration::from_millis(10);
const SUPERUSER: &str = "elephantasm";

/// A running private PostgreSQL. Dropping it, or the death of this process, stops PostgreSQL.
#[derive(Debug)]
pub struct EmbeddedPostgres {
    supervisor: Supervisor,
    socket_dir: PathBuf,
    password: String,
    /// Keeps other servers from the data directory.
    _lock: File,
}

impl EmbeddedPostgres {
    /// Starts PostgreSQL, after initialising the data directory if it is new. Returns when PostgreSQL accepts
    /// connections.
    ///
    /// # Errors
    /// See [`EmbeddedError`].
    pub async fn start(options: Options) -> Result<Self, EmbeddedError> {
        let (cluster, lock) = blocking(move || prepare(options)).await?;
        let (socket_dir, password) = (cluster.socket_dir.clone(), cluster.password.clone());
        let (version, dir) = (cluster.binaries.version.clone(), cluster.dir.clone());
        let supervisor = blocking(move || Supervisor::start(cluster, PATIENCE)).await?;
        let started = Self {
            supervisor,
            socket_dir,
            password,
            _lock: lock,
        };
        started.wait_until_it_answers().await?;
        started.supervisor.keep_running();
        tracing::info!(version, data = %dir.display(), "private PostgreSQL is running");
        Ok(started)
    }

    /// Returns the options to connect to one of its databases.
    #[must_use]
    pub fn connect_options(&self, database: &str) -> PgConnectOptions {
        connect_options(&self.socket_dir, &self.password, database)
    }

    /// Creates a database of this name if there is none.
    ///
    /// # Errors
    /// If PostgreSQL does not answer.
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

    /// Returns the process id of the postmaster. It changes when PostgreSQL is started again.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.supervisor.pid()
    }

    /// Stops PostgreSQL by a fast shutdown and waits for its end.
    ///
    /// # Errors
    /// If PostgreSQL does not end in time, or its socket directory cannot be removed.
    pub async fn stop(self) -> Result<(), EmbeddedError> {
        self.supervisor.request_stop();
        let deadline = Instant::now() + PATIENCE;
        while !self.supervisor.has_ended() {
            if Instant::now() > deadline {
                let pid = self.pid();
                return Err(EmbeddedError::NoAnswer(format!("process {pid} has not ended")));
            }
            sleep(POLL).await;
        }
        self.supervisor.remove_socket_dir()
    }

    async fn connect(&self, database: &str) -> Result<PgConnection, EmbeddedError> {
        self.connect_options(database).connect().await.map_err(no_answer)
    }

    async fn wait_until_it_answers(&self) -> Result<(), EmbeddedError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let failure = match self.connect("postgres").await {
                Ok(connection) => return connection.close().await.map_err(no_answer),
                Err(error) => error,
            };
            if self.supervisor.has_ended() {
                return Err(EmbeddedError::Program {
                    program: "postgres".to_owned(),
                    output: self.supervisor.log_tail(),
                });
            }
            if Instant::now() > deadline {
                return Err(failure);
            }
            sleep(POLL).await;
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EmbeddedError> + Send + 'static,
) -> Result<T, EmbeddedError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| EmbeddedError::NoAnswer(error.to_string()))?
}

/// Returns the options to connect to the private PostgreSQL that another process runs on this directory. Does
/// not check that PostgreSQL is running.
///
/// # Errors
/// If the directory contains no password that this user can read, or the socket directory belongs to another
/// user.
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

/// Locks the data directory and prepares it for the start of PostgreSQL; blocks.
fn prepare(options: Options) -> Result<(Cluster, File), EmbeddedError> {
    let owner = owner::choose(&options.data_dir.join(cluster::DATA))?;
    let lock = locks::lock_directory(&options.data_dir, owner.as_ref())?;
    let data_version = cluster::data_version(&options.data_dir)?;
    let binaries = Binaries::find(options.bin_dir.as_deref(), data_version, &options.data_dir)?;
    let cluster = Cluster::open(options.data_dir, binaries, owner, options.settings)?;
    cluster.initialise_if_new(PATIENCE)?;
    Ok((cluster, lock))
}

/// Returns the default data directory of this user.
///
/// # Errors
/// If the user has no home directory.
pub fn default_data_dir() -> Result<PathBuf, EmbeddedError> {
    const NAME: &str = "elephantasm-events";
    if owner::is_root() {
        return Ok(Path::new("/var/lib").join(NAME));
    }
    if let Some(dir) = std::env::var_os("XDG_DATA_HOME").filter(|dir| !dir.is_empty()) {
        return Ok(Path::new(&dir).join(NAME));
    }
    let home = std::env::home_dir()
        .filter(|home| home.is_absolute())
        .ok_or_else(|| {
            EmbeddedError::io("no directory for the data: set EVENTS_DATA_DIR")(io::Error::other(
                "this user has no home directory",
            ))
        })?;
    let below = if cfg!(target_os = "macos") {
        "Library/Application Support"
    } else {
        ".local/share"
    };
    Ok(home.join(below).join(NAME))
}
