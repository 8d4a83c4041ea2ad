//! Every setting of the server: flag, environment name, default, bounds.

mod database;
mod secret;
mod tls;

use std::net::SocketAddr;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};

use crate::domain::limits::Limits;
use crate::grpc::{KeyLimits, Reflection};
use crate::server::{AuthSettings, ConnectionLimits, ServerSettings};

pub use database::{DatabaseArgs, Pooler};
pub use secret::Secret;
pub use tls::TlsArgs;

/// Settings that make no sense together or cannot be read; the process ends with exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadSettings(pub String);

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

fn to_usize(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
