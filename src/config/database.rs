//! Which database, and how the store uses it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::secret::given_or_read;
use super::{BadSettings, Secret, to_usize};
use crate::store::{IngestSettings, ListenSettings, LiveSettings, StoreSettings};

/// Which database.
#[derive(Args, Clone, Debug)]
pub struct DatabaseArgs {
    /// PostgreSQL to use, as postgres://user:password@host/database?sslmode=…; without it the
    /// server runs a private one
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: Option<Secret>,

    /// File that holds the URL instead [default: none]
    #[arg(
        long,
        env = "DATABASE_URL_FILE",
        value_name = "FILE",
        conflicts_with = "database_url"
    )]
    pub database_url_file: Option<PathBuf>,

    /// Where the private PostgreSQL keeps its data [default: /var/lib/elephantasm-events as root,
    /// else elephantasm-events in ~/.local/share, or $XDG_DATA_HOME]
    #[arg(long, env = "EVENTS_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// Where the private PostgreSQL's programs are [default: `pg_config`, PATH and the usual places]
    #[arg(long, env = "PG_BIN_DIR", value_name = "DIR")]
    pub pg_bin_dir: Option<PathBuf>,

    /// Connections for reads and edits; the writer of events has its own
    #[arg(long, env = "EVENTS_POOL_SIZE", value_name = "COUNT", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub pool_size: u32,

    /// Seconds that a call waits for a connection
    #[arg(long, env = "EVENTS_ACQUIRE_TIMEOUT_SECONDS", value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub acquire_timeout_seconds: u64,

    /// Seconds that a statement may run
    #[arg(long, env = "EVENTS_STATEMENT_TIMEOUT_SECONDS", value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub statement_timeout_seconds: u64,

    /// PostgreSQL itself, around a pooler: for LISTEN and migrations [default: --database-url]
    #[arg(
        long,
        env = "MIGRATION_DATABASE_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub migration_database_url: Option<Secret>,

    /// File that holds that URL instead [default: none]
    #[arg(
        long,
        env = "MIGRATION_DATABASE_URL_FILE",
        value_name = "FILE",
        conflicts_with = "migration_database_url"
    )]
    pub migration_database_url_file: Option<PathBuf>,

    /// Streaming standby of that database, for reads that may lag; a call with the metadata `x-consistency:
    /// strong` is not sent there [default: none]
    #[arg(long, env = "READ_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub read_database_url: Option<Secret>,

    /// File that holds that URL instead [default: none]
    #[arg(
        long,
        env = "READ_DATABASE_URL_FILE",
        value_name = "FILE",
        conflicts_with = "read_database_url"
    )]
    pub read_database_url_file: Option<PathBuf>,

    /// Seconds that the standby may lag; past it the primary serves all reads
    #[arg(long, env = "EVENTS_READ_LAG_SECONDS", value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub read_lag_seconds: u64,

    /// What pools connections before PostgreSQL: `transaction` for PgBouncer in transaction mode
    #[arg(long, env = "EVENTS_POOLER", value_name = "MODE", value_enum, default_value_t = Pooler::None)]
    pub pooler: Pooler,

    /// Whether instances tell each other of new events by NOTIFY; without it they poll
    #[arg(long, env = "EVENTS_NOTIFY", value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub notify: bool,

    /// Milliseconds between polls for other instances' events where LISTEN does not work
    #[arg(long, env = "EVENTS_POLL_INTERVAL_MS", value_name = "MS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(10..=3_600_000))]
    pub poll_interval_ms: u64,

    /// Seconds without an item after which a live stream gets a heartbeat
    #[arg(long, env = "EVENTS_HEARTBEAT_SECONDS", value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub heartbeat_seconds: u64,

    /// Seconds without its reader taking anything after which a stream is ended
    #[arg(long, env = "EVENTS_STALL_SECONDS", value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub stall_seconds: u64,

    /// Events that may wait to be stored, half of them from ingest streams; past it calls are refused as
    /// overloaded and streams wait
    #[arg(long, env = "EVENTS_QUEUE_ITEMS", value_name = "COUNT", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub queue_items: u32,

    /// Bytes that the waiting events may have
    #[arg(long, env = "EVENTS_QUEUE_BYTES", value_name = "BYTES", default_value_t = 64 * 1024 * 1024, value_parser = clap::value_parser!(u32).range(1_048_576..))]
    pub queue_bytes: u32,

    /// Commits of events that may be under way at the same time, each with its share of the spirits
    #[arg(long, env = "EVENTS_WRITERS", value_name = "COUNT", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub writers: u32,

    /// Events after which one commit takes no further request
    #[arg(long, env = "EVENTS_FLUSH_ITEMS", value_name = "COUNT", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub flush_items: u32,

    /// Seconds that a commit of events may take, waiting for locks included
    #[arg(long, env = "EVENTS_FLUSH_TIMEOUT_SECONDS", value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub flush_timeout_seconds: u64,
}

/// What stands between the server and PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Pooler {
    /// Nothing, or what behaves so: a pooler in session mode or one that follows prepared statements.
    None,
    /// A pooler that gives each transaction another connection.
    Transaction,
}

impl DatabaseArgs {
    /// The database's URL, given or in a file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn database_url(&self) -> Result<Option<Secret>, BadSettings> {
        given_or_read(self.database_url.as_ref(), self.database_url_file.as_deref())
    }

    /// The URL around a pooler, given or in a file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn migration_database_url(&self) -> Result<Option<Secret>, BadSettings> {
        given_or_read(
            self.migration_database_url.as_ref(),
            self.migration_database_url_file.as_deref(),
        )
    }

    /// The URL of the standby, given or in a file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read_database_url(&self) -> Result<Option<Secret>, BadSettings> {
        given_or_read(
            self.read_database_url.as_ref(),
            self.read_database_url_file.as_deref(),
        )
    }

    /// How the store uses the database.
    #[must_use]
    pub fn store_settings(&self) -> StoreSettings {
        StoreSettings {
            pool_size: self.pool_size,
            acquire_timeout: Duration::from_secs(self.acquire_timeout_seconds),
            statement_timeout: Duration::from_secs(self.statement_timeout_seconds),
            live: LiveSettings {
                heartbeat: Duration::from_secs(self.heartbeat_seconds),
                stall_limit: Duration::from_secs(self.stall_seconds),
                listen: ListenSettings {
                    notify: self.notify,
                    poll_interval: Duration::from_millis(self.poll_interval_ms),
                },
            },
            transaction_pooler: self.pooler == Pooler::Transaction,
            direct: None,
            standby: None,
            ingest: IngestSettings {
                writers: to_usize(self.writers),
                queue_items_max: to_usize(self.queue_items),
                queue_bytes_max: to_usize(self.queue_bytes),
                flush_items_max: to_usize(self.flush_items),
                flush_timeout: Duration::from_secs(self.flush_timeout_seconds),
            },
        }
    }
}
