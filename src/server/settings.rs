//! Settings of the server and of the store, converted from the flags.
//!
//! Settings that no operator has a reason to change have no flag. They are constants here, with the reason for
//! their value.

use std::time::Duration;

use super::tls::Tls;
use crate::config::{AuthSettings, BadSettings, ConnectionLimits, Console, DatabaseArgs, Pooler, ServeArgs};
use crate::domain::limits::Limits;
use crate::grpc::{OriginRules, ReplyLimits};
use crate::store::{IngestSettings, ListenSettings, LiveSettings, Sharding, StoreSettings};

/// Unanswered items of an ingest stream, above which flow control slows the client down. Two streams fill a
/// commit of [`FLUSH_ITEMS_MAX`] events, and more items would only wait in the server instead of in the
/// client.
const INGEST_WINDOW: usize = 256;
/// Time limit of a connection's TLS handshake and first bytes. Long enough for slow networks; the number of
/// pending handshakes is bounded as well, so a silent client does not shut out others in that time.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Idle time of a connection before an HTTP/2 keepalive ping. Below the idle timeouts of common load balancers
/// and NAT gateways, which are a minute and more.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// Time that a call waits for a pooled connection. A pool that is exhausted for longer needs more
/// connections, not a longer wait, and the caller may retry.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval between polls for other instances' events where LISTEN does not work. A poll is one indexed read
/// for all streams together, so a longer interval would save next to nothing.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Bytes of events that may wait to be stored. Bounds memory when events are large; the limit that operators set
/// is the number of events.
const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Number of events at which a commit takes no further request. A larger commit would delay the replies to
/// all its callers, while hundreds of events already share the cost of the commit.
const FLUSH_ITEMS_MAX: usize = 512;

/// Settings of the server.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// Limits of requests.
    pub limits: Limits,
    /// Bytes of a request message.
    pub message_bytes_max: usize,
    /// Unanswered items of an ingest stream.
    pub ingest_window: usize,
    /// Time that calls in progress have to finish at shutdown.
    pub drain_limit: Duration,
    /// Authentication.
    pub auth: AuthSettings,
    /// Time limit of a call, even if its own deadline is longer; for streams, until they begin.
    pub call_limit: Duration,
    /// Limits of client connections.
    pub connections: ConnectionLimits,
    /// Limits of replies that clients have not read yet.
    pub replies: ReplyLimits,
    /// Web origins and hosts that a server without API keys accepts.
    pub origins: OriginRules,
    /// Whether the web console is served.
    pub console: Console,
    /// TLS; without it the server uses plain text.
    pub tls: Option<Tls>,
}

impl TryFrom<&ServeArgs> for ServerSettings {
    type Error = BadSettings;

    /// Converts the flags. [`tls`](Self::tls) is `None`, because its files are yet to be read.
    ///
    /// # Errors
    /// When the largest content or the largest `meta` would not fit into a message.
    fn try_from(args: &ServeArgs) -> Result<Self, BadSettings> {
        args.check_sizes()?;
        Ok(Self {
            limits: Limits {
                content_bytes_max: to_usize(args.event_limits.max_content_bytes),
                meta_bytes_max: to_usize(args.event_limits.max_meta_bytes),
            },
            message_bytes_max: to_usize(args.max_message_bytes),
            ingest_window: INGEST_WINDOW,
            drain_limit: args.drain_timeout,
            auth: args.auth(),
            call_limit: args.call_timeout,
            connections: ConnectionLimits {
                connections_max: to_usize(args.max_connections),
                handshake: HANDSHAKE_TIMEOUT,
                ping_interval: PING_INTERVAL,
                http1_idle: args.http1_idle_timeout,
            },
            replies: ReplyLimits {
                connection_bytes_max: to_usize(args.max_connection_reply_bytes),
                server_bytes_max: to_usize(args.max_reply_bytes),
                stall_limit: args.database.stall_timeout,
            },
            origins: OriginRules {
                cors_origins: args.cors_origins.clone(),
                allowed_hosts: args.allowed_hosts.clone(),
                is_loopback: false,
            },
            console: args.console,
            tls: None,
        })
    }
}

impl From<&DatabaseArgs> for StoreSettings {
    /// Converts the flags. The connections without a pooler and to a standby are `None`, because their URLs are
    /// yet to be parsed.
    fn from(args: &DatabaseArgs) -> Self {
        Self {
            pool_size: args.pool_size,
            acquire_timeout: ACQUIRE_TIMEOUT,
            statement_timeout: args.statement_timeout,
            live: LiveSettings {
                heartbeat: args.heartbeat_interval,
                stall_limit: args.stall_timeout,
                listen: ListenSettings {
                    notify: args.notify,
                    poll_interval: POLL_INTERVAL,
                },
            },
            retention_interval: args.retention_interval,
            transaction_pooler: args.pooler == Pooler::Transaction,
            sharding: match args.citus_shards {
                Some(shards) => Sharding::Named(shards),
                None if args.citus => Sharding::Citus,
                None => Sharding::None,
            },
            direct: None,
            standby: None,
            ingest: IngestSettings {
                writers: to_usize(args.writers),
                queue_items_max: to_usize(args.queue_items),
                queue_bytes_max: QUEUE_BYTES_MAX,
                flush_items_max: FLUSH_ITEMS_MAX,
                flush_timeout: args.flush_timeout,
            },
        }
    }
}

fn to_usize(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
