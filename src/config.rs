//! Every setting of the server: flag, environment name, default, bounds.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};

use crate::domain::limits::Limits;
use crate::grpc::{KeyLimits, Reflection};
use crate::server::{AuthSettings, ClientAuth, ConnectionLimits, ServerSettings, TlsFiles};
use crate::store::{IngestSettings, ListenSettings, LiveSettings, StoreSettings};

/// Settings that make no sense together or cannot be read; the process ends with exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadSettings(pub String);

/// A value that is never shown.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Reads it from a file, without the line's end.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(file: &Path) -> Result<Self, BadSettings> {
        match std::fs::read_to_string(file) {
            Ok(text) => Ok(Self(text.trim_end_matches(['\r', '\n']).to_owned())),
            Err(error) => Err(BadSettings(format!("cannot read {}: {error}", file.display()))),
        }
    }

    /// The value, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

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

/// How logs look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// A JSON object a line.
    Json,
}

/// What is logged.
#[derive(Args, Clone, Debug)]
pub struct LogArgs {
    /// What logs look like; they go to stderr
    #[arg(long, env = "EVENTS_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// What is logged: error, warn, info, debug or trace, also by module as in `info,sqlx=debug`
    #[arg(
        long,
        env = "EVENTS_LOG",
        value_name = "FILTER",
        default_value = "info,sqlx=warn"
    )]
    pub log: String,
}

/// Who may use reflection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReflectionArg {
    /// Everybody.
    Open,
    /// Who has a key, once there are keys.
    Keyed,
    /// Nobody.
    Off,
}

/// Who the server says that it is, and whom it lets in.
#[derive(Args, Clone, Debug)]
pub struct TlsArgs {
    /// PEM file with the server's certificate and those between it and its authority; with it only TLS
    /// is spoken [default: plain text]
    #[arg(long, env = "EVENTS_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// PEM file with the key of --tls-cert [default: none]
    #[arg(long, env = "EVENTS_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// PEM file with the authorities whose certificates callers show [default: none]
    #[arg(long, env = "EVENTS_TLS_CLIENT_CA", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,

    /// Whether callers must show a certificate of --tls-client-ca [default: required]
    #[arg(long, env = "EVENTS_TLS_CLIENT_AUTH", value_name = "WHETHER", value_enum)]
    pub tls_client_auth: Option<ClientAuth>,
}

/// All settings of `serve`.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// Address to listen on; port 0 takes a free one
    #[arg(
        long,
        env = "EVENTS_LISTEN_ADDR",
        value_name = "ADDR",
        default_value = "127.0.0.1:50051"
    )]
    pub listen_addr: SocketAddr,

    #[command(flatten)]
    pub database: DatabaseArgs,

    /// Bytes of an event's content
    #[arg(long, env = "EVENTS_MAX_CONTENT_BYTES", value_name = "BYTES", default_value_t = 1024 * 1024, value_parser = clap::value_parser!(u32).range(1..=268_435_456))]
    pub max_content_bytes: u32,

    /// Bytes of `meta` as compact JSON
    #[arg(long, env = "EVENTS_MAX_META_BYTES", value_name = "BYTES", default_value_t = 64 * 1024, value_parser = clap::value_parser!(u32).range(2..=16_777_216))]
    pub max_meta_bytes: u32,

    /// Bytes of a request message
    #[arg(long, env = "EVENTS_MAX_MESSAGE_BYTES", value_name = "BYTES", default_value_t = 4 * 1024 * 1024, value_parser = clap::value_parser!(u32).range(1_024..=536_870_912))]
    pub max_message_bytes: u32,

    /// Unanswered events that one ingest stream may have; past it its sender is slowed
    #[arg(long, env = "EVENTS_INGEST_WINDOW", value_name = "COUNT", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub ingest_window: u32,

    /// Seconds that calls under way have to finish when the server is told to end
    #[arg(long, env = "EVENTS_DRAIN_SECONDS", value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(0..=3_600))]
    pub drain_seconds: u64,

    /// Address for operators: /metrics, /healthz and /readyz over HTTP, open to whoever reaches it
    /// [default: none]
    #[arg(long, env = "EVENTS_ADMIN_ADDR", value_name = "ADDR")]
    pub admin_addr: Option<SocketAddr>,
    /// Serve everybody on an address that others can reach, as long as no API key was ever made
    /// [default: off]
    #[arg(long, env = "EVENTS_INSECURE_NO_AUTH", value_parser = BoolishValueParser::new())]
    pub insecure_no_auth: bool,

    /// Who may use reflection: everybody, who has a key (once there are keys), or nobody
    #[arg(long, env = "EVENTS_REFLECTION", value_name = "WHO", value_enum, default_value_t = ReflectionArg::Keyed)]
    pub reflection: ReflectionArg,

    /// Calls a second that each API key may make of this server; 0 = no bound
    #[arg(
        long,
        env = "EVENTS_KEY_CALLS_PER_SECOND",
        value_name = "COUNT",
        default_value_t = 0
    )]
    pub key_calls_per_second: u32,

    /// Streams that each API key may have open on this server; 0 = no bound
    #[arg(long, env = "EVENTS_KEY_STREAMS", value_name = "COUNT", default_value_t = 0)]
    pub key_streams: u32,

    /// Seconds that a call may take, whatever its caller allows; for streams, until they begin
    #[arg(long, env = "EVENTS_CALL_SECONDS", value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub call_seconds: u64,

    /// Connections open at the same time; further ones are closed at once
    #[arg(long, env = "EVENTS_MAX_CONNECTIONS", value_name = "COUNT", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_connections: u32,

    /// Seconds that a new connection has to shake hands and send its first bytes
    #[arg(long, env = "EVENTS_HANDSHAKE_SECONDS", value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub handshake_seconds: u64,

    /// Seconds of a connection's silence after which its client is asked whether it is still there
    #[arg(long, env = "EVENTS_PING_SECONDS", value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub ping_seconds: u64,

    #[command(flatten)]
    pub tls: TlsArgs,

    #[command(flatten)]
    pub log: LogArgs,
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

impl TlsArgs {
    /// The files, if TLS is to be spoken.
    ///
    /// # Errors
    /// When one is given without the other that it needs.
    pub fn files(&self) -> Result<Option<TlsFiles>, BadSettings> {
        let together = |message: &str| Err(BadSettings(message.to_owned()));
        match (&self.tls_client_ca, self.tls_client_auth) {
            (None, Some(_)) => return together("--tls-client-auth needs --tls-client-ca"),
            (Some(_), _) if self.tls_cert.is_none() => {
                return together("--tls-client-ca needs --tls-cert and --tls-key");
            }
            _ => {}
        }
        match (&self.tls_cert, &self.tls_key) {
            (None, None) => Ok(None),
            (Some(cert), Some(key)) => Ok(Some(TlsFiles {
                cert: cert.clone(),
                key: key.clone(),
                client_ca: self
                    .tls_client_ca
                    .clone()
                    .map(|path| (path, self.tls_client_auth.unwrap_or(ClientAuth::Required))),
            })),
            _ => together("--tls-cert and --tls-key go together"),
        }
    }
}

impl ServeArgs {
    /// How the server serves, without the TLS that is yet to be read from its files.
    ///
    /// # Errors
    /// When an event within the limits would not fit into a message.
    pub fn server_settings(&self) -> Result<ServerSettings, BadSettings> {
        if self.max_content_bytes.max(self.max_meta_bytes) >= self.max_message_bytes {
            return Err(BadSettings(format!(
                "--max-message-bytes ({}) must be above --max-content-bytes ({}) and --max-meta-bytes ({})",
                self.max_message_bytes, self.max_content_bytes, self.max_meta_bytes
            )));
        }
        Ok(ServerSettings {
            limits: Limits {
                content_bytes_max: to_usize(self.max_content_bytes),
                meta_bytes_max: to_usize(self.max_meta_bytes),
            },
            message_bytes_max: to_usize(self.max_message_bytes),
            ingest_window: to_usize(self.ingest_window),
            drain_limit: Duration::from_secs(self.drain_seconds),
            auth: AuthSettings {
                insecure_no_auth: self.insecure_no_auth,
                reflection: match self.reflection {
                    ReflectionArg::Open => Reflection::Open,
                    ReflectionArg::Keyed => Reflection::Keyed,
                    ReflectionArg::Off => Reflection::Off,
                },
                key_limits: KeyLimits {
                    calls_per_second: (self.key_calls_per_second > 0).then_some(self.key_calls_per_second),
                    streams: (self.key_streams > 0).then_some(self.key_streams),
                },
            },
            call_limit: Duration::from_secs(self.call_seconds),
            connections: ConnectionLimits {
                connections_max: to_usize(self.max_connections),
                handshake: Duration::from_secs(self.handshake_seconds),
                ping_interval: Duration::from_secs(self.ping_seconds),
            },
            tls: None,
        })
    }
}

/// A secret, given or in a file.
fn given_or_read(given: Option<&Secret>, file: Option<&Path>) -> Result<Option<Secret>, BadSettings> {
    match file {
        Some(file) => Secret::read(file).map(Some),
        None => Ok(given.cloned()),
    }
}

fn to_usize(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
