//! Settings of `serve`.

use std::net::SocketAddr;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};

use super::duration::duration;
use super::{BadSettings, DatabaseArgs, EventLimitArgs, LogArgs, RARELY_NEEDED, TlsArgs, variable};

/// Flags of `serve`.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// Address for calls; port 0 takes a free port
    #[arg(
        long,
        env = "EVENTS_LISTEN_ADDR",
        value_name = "ADDR",
        default_value = "127.0.0.1:50051"
    )]
    pub listen_addr: SocketAddr,

    #[command(flatten)]
    pub database: DatabaseArgs,

    #[command(flatten)]
    pub tls: TlsArgs,

    /// Address for /metrics, /healthz and /readyz over HTTP, without authentication [default: none]
    #[arg(long, env = "EVENTS_ADMIN_ADDR", value_name = "ADDR")]
    pub admin_addr: Option<SocketAddr>,

    /// Serve without authentication on a non-loopback address, as long as no API key was ever
    /// created [default: off]
    #[arg(long, env = "EVENTS_INSECURE_NO_AUTH", value_parser = BoolishValueParser::new())]
    pub insecure_no_auth: bool,

    /// Whether the port also serves the web console
    #[arg(long, env = "EVENTS_CONSOLE", value_name = "MODE", value_enum, default_value_t = Console::On)]
    pub console: Console,

    /// Time that calls in progress have to finish at shutdown
    #[arg(long, alias = "drain-seconds", env = variable("EVENTS_DRAIN_TIMEOUT", "EVENTS_DRAIN_SECONDS"), value_name = "DURATION", default_value = "30s", value_parser = duration(0..=3_600))]
    pub drain_timeout: Duration,

    #[command(flatten)]
    pub log: LogArgs,

    #[command(flatten)]
    pub event_limits: EventLimitArgs,

    /// Bytes of a request message
    #[arg(long, env = "EVENTS_MAX_MESSAGE_BYTES", value_name = "BYTES", default_value_t = 4 * 1024 * 1024, value_parser = clap::value_parser!(u32).range(1_024..=536_870_912), help_heading = RARELY_NEEDED)]
    pub max_message_bytes: u32,

    /// Calls per second of each API key on this server; 0 = no limit
    #[arg(
        long,
        env = "EVENTS_KEY_CALLS_PER_SECOND",
        value_name = "COUNT",
        default_value_t = 0,
        help_heading = RARELY_NEEDED
    )]
    pub key_calls_per_second: u32,

    /// Open streams of each API key on this server; 0 = no limit
    #[arg(long, env = "EVENTS_KEY_STREAMS", value_name = "COUNT", default_value_t = 0, help_heading = RARELY_NEEDED)]
    pub key_streams: u32,

    /// Who may use gRPC reflection
    #[arg(long, env = "EVENTS_REFLECTION", value_name = "WHO", value_enum, default_value_t = Reflection::Keyed, help_heading = RARELY_NEEDED)]
    pub reflection: Reflection,

    /// Time limit of a call, even if its own deadline is longer; for streams, until they begin
    #[arg(long, alias = "call-seconds", env = variable("EVENTS_CALL_TIMEOUT", "EVENTS_CALL_SECONDS"), value_name = "DURATION", default_value = "60s", value_parser = duration(1..=3_600), help_heading = RARELY_NEEDED)]
    pub call_timeout: Duration,

    /// Bytes of replies that the client of a connection has not read yet; then its calls wait or are refused
    #[arg(long, env = "EVENTS_MAX_CONNECTION_REPLY_BYTES", value_name = "BYTES", default_value_t = 16 * 1024 * 1024, value_parser = clap::value_parser!(u32).range(1_048_576..), help_heading = RARELY_NEEDED)]
    pub max_connection_reply_bytes: u32,

    /// Bytes of replies that all clients together have not read yet; then calls wait or are refused
    #[arg(long, env = "EVENTS_MAX_REPLY_BYTES", value_name = "BYTES", default_value_t = 256 * 1024 * 1024, value_parser = clap::value_parser!(u32).range(1_048_576..), help_heading = RARELY_NEEDED)]
    pub max_reply_bytes: u32,

    /// Origin of web pages that may call the server, such as https://app.example.com, or * for every origin
    /// once there are API keys; can be repeated [default: none]
    #[arg(long = "cors-origin", env = "EVENTS_CORS_ORIGIN", value_name = "ORIGIN", value_delimiter = ',', value_parser = origin, help_heading = RARELY_NEEDED)]
    pub cors_origins: Vec<String>,

    /// Name of this host that callers of a loopback listener without API keys may use, such as
    /// host.docker.internal; can be repeated [default: localhost]
    #[arg(long = "allowed-host", env = "EVENTS_ALLOWED_HOST", value_name = "HOST", value_delimiter = ',', help_heading = RARELY_NEEDED)]
    pub allowed_hosts: Vec<String>,

    /// Open client connections; further connections are closed at once
    #[arg(long, env = "EVENTS_MAX_CONNECTIONS", value_name = "COUNT", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000), help_heading = RARELY_NEEDED)]
    pub max_connections: u32,

    /// Time that an HTTP/1.1 connection may wait for the headers of its next request
    #[arg(long, env = "EVENTS_HTTP1_IDLE_TIMEOUT", value_name = "DURATION", default_value = "75s", value_parser = duration(1..=3_600), help_heading = RARELY_NEEDED)]
    pub http1_idle_timeout: Duration,
}

/// The value of `--cors-origin` that allows every origin, on a server with API keys.
pub const ANY_ORIGIN: &str = "*";

/// Parses an origin as browsers send it: scheme, host and port, without a path.
fn origin(text: &str) -> Result<String, String> {
    let is_origin = || {
        let (scheme, host) = text.split_once("://")?;
        let is_plain = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_graphic());
        (is_plain(scheme) && is_plain(host) && !host.contains(['/', '@', '?', '#'])).then_some(())
    };
    if text == ANY_ORIGIN || is_origin().is_some() {
        return Ok(text.to_owned());
    }
    Err("an origin is a scheme, a host and a port if it is not the default, without a path".to_owned())
}

/// Authentication and its limits.
#[derive(Clone, Copy, Debug)]
pub struct AuthSettings {
    /// Whether to serve without authentication on a non-loopback address, as long as no API key was ever
    /// created.
    pub insecure_no_auth: bool,
    /// Who may use reflection.
    pub reflection: Reflection,
    /// Limits of each API key on this server.
    pub key_limits: KeyLimits,
}

/// Who may use gRPC reflection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Reflection {
    /// Everybody.
    Open,
    /// Callers with an API key, once there are API keys.
    Keyed,
    /// Nobody: the server does not offer reflection.
    Off,
}

/// Whether the port also serves the web console.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Console {
    /// Served to everybody; its calls need an API key as all calls do.
    On,
    /// Not served.
    Off,
}

/// Limits of each API key; `None` = no limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeyLimits {
    /// Calls per second, and the size of a burst.
    pub calls_per_second: Option<u32>,
    /// Open streams.
    pub streams: Option<u32>,
}

/// Limits of client connections.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Open connections; further connections are closed at once.
    pub connections_max: usize,
    /// Time limit of a connection's TLS handshake and first bytes.
    pub handshake: Duration,
    /// Idle time of a connection before an HTTP/2 keepalive ping.
    pub ping_interval: Duration,
    /// Time that an HTTP/1.1 connection may wait for the headers of its next request.
    pub http1_idle: Duration,
}

impl ServeArgs {
    /// Returns the settings of authentication.
    #[must_use]
    pub fn auth(&self) -> AuthSettings {
        let limit = |count: u32| (count > 0).then_some(count);
        AuthSettings {
            insecure_no_auth: self.insecure_no_auth,
            reflection: self.reflection,
            key_limits: KeyLimits {
                calls_per_second: limit(self.key_calls_per_second),
                streams: limit(self.key_streams),
            },
        }
    }

    /// Checks that the largest content and the largest `meta` are each smaller than a message.
    ///
    /// # Errors
    /// When a limit of an event is not below that of a message.
    pub fn check_sizes(&self) -> Result<(), BadSettings> {
        let EventLimitArgs {
            max_content_bytes,
            max_meta_bytes,
        } = self.event_limits;
        if max_content_bytes.max(max_meta_bytes) >= self.max_message_bytes {
            return Err(BadSettings(format!(
                "--max-message-bytes ({}) must be above --max-content-bytes ({max_content_bytes}) and --max-meta-bytes \
                 ({max_meta_bytes})",
                self.max_message_bytes
            )));
        }
        Ok(())
    }
}
