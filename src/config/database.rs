//! Settings of the database connections and of the store.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};
use secrecy::SecretString;

use super::duration::duration;
use super::secret::given_or_read;
use super::{BadSettings, POOLERS_AND_STANDBYS, RARELY_NEEDED, variable};

/// Flags for the database.
#[derive(Args, Clone, Debug)]
pub struct DatabaseArgs {
    /// PostgreSQL to use, as postgres://user:password@host/database?sslmode=…; without it the
    /// server runs a private PostgreSQL
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: Option<SecretString>,

    /// File that contains the database URL [default: none]
    #[arg(
        long,
        env = "DATABASE_URL_FILE",
        value_name = "FILE",
        conflicts_with = "database_url"
    )]
    pub database_url_file: Option<PathBuf>,

    /// Data directory of the private PostgreSQL [default: /var/lib/elephantasm-events as root,
    /// else elephantasm-events in ~/.local/share, or $XDG_DATA_HOME]
    #[arg(long, env = "EVENTS_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// Connections for reads and edits; the writers of events have their own
    #[arg(long, env = "EVENTS_POOL_SIZE", value_name = "COUNT", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub pool_size: u32,

    /// Pooler between the server and PostgreSQL: `transaction` for PgBouncer in transaction mode
    #[arg(long, env = "EVENTS_POOLER", value_name = "MODE", value_enum, default_value_t = Pooler::None, help_heading = POOLERS_AND_STANDBYS)]
    pub pooler: Pooler,

    /// The same PostgreSQL without the pooler, for migrations and LISTEN [default: --database-url]
    #[arg(
        long,
        env = "MIGRATION_DATABASE_URL",
        hide_env_values = true,
        value_name = "URL",
        help_heading = POOLERS_AND_STANDBYS
    )]
    pub migration_database_url: Option<SecretString>,

    /// File that contains the URL without the pooler [default: none]
    #[arg(
        long,
        env = "MIGRATION_DATABASE_URL_FILE",
        value_name = "FILE",
        conflicts_with = "migration_database_url",
        help_heading = POOLERS_AND_STANDBYS
    )]
    pub migration_database_url_file: Option<PathBuf>,

    /// Streaming standby of the database, for reads that may lag; calls with the metadata
    /// `x-consistency: strong` use the primary [default: none]
    #[arg(
        long,
        env = "READ_DATABASE_URL",
        hide_env_values = true,
        value_name = "URL",
        help_heading = POOLERS_AND_STANDBYS
    )]
    pub read_database_url: Option<SecretString>,

    /// File that contains the URL of the standby [default: none]
    #[arg(
        long,
        env = "READ_DATABASE_URL_FILE",
        value_name = "FILE",
        conflicts_with = "read_database_url",
        help_heading = POOLERS_AND_STANDBYS
    )]
    pub read_database_url_file: Option<PathBuf>,

    /// Replication lag of the standby above which the primary serves all reads
    #[arg(long, alias = "read-lag-seconds", env = variable("EVENTS_READ_LAG_MAX", "EVENTS_READ_LAG_SECONDS"), value_name = "DURATION", default_value = "10s", value_parser = duration(1..=86_400), help_heading = POOLERS_AND_STANDBYS)]
    pub read_lag_max: Duration,

    /// The database is distributed by Citus; events of each shard have a writer of their own
    /// [default: off]
    #[arg(long, env = "EVENTS_CITUS", value_parser = BoolishValueParser::new(), help_heading = POOLERS_AND_STANDBYS)]
    pub citus: bool,

    /// Division of a database that is not distributed, for tests
    #[arg(long, hide = true, conflicts_with = "citus", value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub citus_shards: Option<u32>,

    /// Directory of the programs of the private PostgreSQL [default: searched for by `pg_config`, in PATH and
    /// in the common install locations]
    #[arg(long, env = "PG_BIN_DIR", value_name = "DIR", help_heading = RARELY_NEEDED)]
    pub pg_bin_dir: Option<PathBuf>,

    /// Time limit of a statement
    #[arg(long, alias = "statement-timeout-seconds", env = variable("EVENTS_STATEMENT_TIMEOUT", "EVENTS_STATEMENT_TIMEOUT_SECONDS"), value_name = "DURATION", default_value = "30s", value_parser = duration(1..=3_600), help_heading = RARELY_NEEDED)]
    pub statement_timeout: Duration,

    /// Events that may wait to be stored, half of them from ingest streams; above it calls are rejected as
    /// overloaded and streams wait
    #[arg(long, env = "EVENTS_QUEUE_ITEMS", value_name = "COUNT", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000), help_heading = RARELY_NEEDED)]
    pub queue_items: u32,

    /// Concurrent commits of events; each writer has its share of the spirits
    #[arg(long, env = "EVENTS_WRITERS", value_name = "COUNT", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64), help_heading = RARELY_NEEDED)]
    pub writers: u32,

    /// Time limit of a commit of events, lock waits included
    #[arg(long, alias = "flush-timeout-seconds", env = variable("EVENTS_FLUSH_TIMEOUT", "EVENTS_FLUSH_TIMEOUT_SECONDS"), value_name = "DURATION", default_value = "30s", value_parser = duration(1..=3_600), help_heading = RARELY_NEEDED)]
    pub flush_timeout: Duration,

    /// Whether instances notify each other of new events by NOTIFY; without it they poll
    #[arg(long, env = "EVENTS_NOTIFY", value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, help_heading = RARELY_NEEDED)]
    pub notify: bool,

    /// Pause between two checks for events and changes that are older than the retention of their spirit
    #[arg(long, env = "EVENTS_RETENTION_INTERVAL", value_name = "DURATION", default_value = "10m", value_parser = duration(1..=3_600), help_heading = RARELY_NEEDED)]
    pub retention_interval: Duration,

    /// Idle time after which a live stream gets a heartbeat
    #[arg(long, alias = "heartbeat-seconds", env = variable("EVENTS_HEARTBEAT_INTERVAL", "EVENTS_HEARTBEAT_SECONDS"), value_name = "DURATION", default_value = "30s", value_parser = duration(1..=3_600), help_heading = RARELY_NEEDED)]
    pub heartbeat_interval: Duration,

    /// Time after which a stream whose client reads nothing is ended, and a connection whose client reads no
    /// replies is closed
    #[arg(long, alias = "stall-seconds", env = variable("EVENTS_STALL_TIMEOUT", "EVENTS_STALL_SECONDS"), value_name = "DURATION", default_value = "5m", value_parser = duration(1..=86_400), help_heading = RARELY_NEEDED)]
    pub stall_timeout: Duration,
}

/// The kind of pooler between the server and PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Pooler {
    /// No pooler, or one in session mode, or one that tracks prepared statements.
    None,
    /// A pooler that may use another connection for each transaction.
    Transaction,
}

impl DatabaseArgs {
    /// Returns the URL of the database, from the flag or the file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn database_url(&self) -> Result<Option<SecretString>, BadSettings> {
        given_or_read(self.database_url.as_ref(), self.database_url_file.as_deref())
    }

    /// Returns the URL that bypasses the pooler, from the flag or the file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn migration_database_url(&self) -> Result<Option<SecretString>, BadSettings> {
        given_or_read(
            self.migration_database_url.as_ref(),
            self.migration_database_url_file.as_deref(),
        )
    }

    /// Returns the URL of the standby, from the flag or the file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read_database_url(&self) -> Result<Option<SecretString>, BadSettings> {
        given_or_read(
            self.read_database_url.as_ref(),
            self.read_database_url_file.as_deref(),
        )
    }
}
