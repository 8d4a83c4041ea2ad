//! Bounds the memory of replies that clients have not taken yet.
//!
//! With HTTP/2 a client can make calls and never open its window for the replies. So a unary reply is encoded
//! when it is ready, and its bytes are charged to the budgets of its connection and of the server until the
//! client has taken it:
//!
//! - A call waits before it runs while its connection or the server has no budget left. After a time limit it is
//!   refused. Reads of pages and edits reserve the bytes of a page.
//! - A read whose reply exceeds the budget is refused. Small replies may use up to twice the budget, because pages
//!   that other calls reserved are no reason to refuse them. So may replies to writes, because the writes are
//!   committed; beyond that the reply is dropped.
//! - The more of the server's budget is in use, the less of it one connection may take, so that some is left for
//!   connections without replies in flight.
//! - Frames are passed to HTTP/2 in small slices, so that HTTP/2 buffers only one slice of a stalled reply.
//! - A connection whose replies make no progress is closed, sooner if the server's budget is nearly used up.
//!
//! [`layer`] charges the replies of calls, [`connection`] has the budget of a connection.

mod connection;
mod layer;
mod sliced_body;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntGauge};
use tokio::time::{MissedTickBehavior, interval};

use crate::metrics::Registry;
use crate::panics::keep_running;

pub use connection::ConnectionReplies;
pub use layer::ReplyLayer;

/// Limits of the replies that clients have not taken yet.
#[derive(Clone, Copy, Debug)]
pub struct ReplyLimits {
    /// Maximum bytes per connection.
    pub connection_bytes_max: usize,
    /// Maximum bytes of all connections.
    pub server_bytes_max: usize,
    /// Time without progress after which a connection is closed.
    pub stall_limit: Duration,
}

/// Interval of the search for stalled connections.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Stall limit while the server's budget is nearly used up. With two intervals of the search it is below the time
/// for which calls wait, so that they get the budget of stalled connections.
const STALL_LIMIT_UNDER_PRESSURE: Duration = Duration::from_secs(2);

/// The budget of the replies of all connections. Cheap to clone.
#[derive(Clone)]
pub struct ReplyBudget(Arc<Shared>);

struct Shared {
    limits: ReplyLimits,
    /// Bytes of replies in flight and of reservations.
    bytes: AtomicUsize,
    /// Sweeps so far. As the clock of progress they cost no system call, and no connection is closed early on a
    /// machine that is too busy to sweep in time.
    sweeps: AtomicU64,
    connections: Mutex<Vec<Weak<ConnectionReplies>>>,
    registry: Registry,
    bytes_gauge: IntGauge,
    bytes_max_gauge: IntGauge,
    refusals: IntCounter,
    closed: IntCounter,
}

impl ReplyBudget {
    /// Creates an unused budget and starts the task that closes stalled connections. The task ends with the
    /// last clone. Needs a Tokio runtime.
    #[must_use]
    pub fn start(limits: ReplyLimits) -> Self {
        let budget = Self(Arc::new(Shared::new(limits)));
        let swept = Arc::downgrade(&budget.0);
        tokio::spawn(keep_running("reply sweep", async move || {
            let mut ticks = interval(SWEEP_INTERVAL);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                match swept.upgrade() {
                    Some(shared) => shared.sweep(),
                    None => return,
                }
            }
        }));
        budget
    }

    /// Creates the budget of a new connection.
    #[must_use]
    pub fn connection(&self) -> Arc<ConnectionReplies> {
        let connection = Arc::new(ConnectionReplies::new(self.clone()));
        let mut connections = self.0.connections.lock();
        if connections.len() == connections.capacity() {
            connections.retain(|connection| connection.strong_count() > 0);
        }
        connections.push(Arc::downgrade(&connection));
        connection
    }

    /// Returns the metrics of the budget, with the current values of the gauges.
    #[must_use]
    pub fn metrics(&self) -> Vec<MetricFamily> {
        let shared = &self.0;
        shared
            .bytes_gauge
            .set(to_i64(shared.bytes.load(Ordering::Relaxed)));
        shared.bytes_max_gauge.set(to_i64(shared.limits.server_bytes_max));
        shared.registry.gather()
    }
}

impl Shared {
    fn new(limits: ReplyLimits) -> Self {
        let registry = Registry::default();
        Self {
            limits,
            bytes: AtomicUsize::new(0),
            sweeps: AtomicU64::new(0),
            connections: Mutex::default(),
            bytes_gauge: registry.gauge(
                "events_reply_bytes",
                "Bytes of unary replies that clients have not taken yet, and of reservations for replies",
            ),
            bytes_max_gauge: registry.gauge(
                "events_reply_bytes_max",
                "Bytes at which calls wait or are refused until clients take their replies",
            ),
            refusals: registry.counter(
                "events_reply_refusals_total",
                "Calls refused because clients have not taken earlier replies",
            ),
            closed: registry.counter(
                "events_stalled_connections_total",
                "Connections closed because their client took no reply for too long",
            ),
            registry,
        }
    }

    /// Closes stalled connections.
    fn sweep(&self) {
        let now = 1 + self.sweeps.fetch_add(1, Ordering::Relaxed);
        let max = self.limits.server_bytes_max;
        let is_under_pressure = self.bytes.load(Ordering::Relaxed) > max - max / 4;
        let stall_limit = if is_under_pressure {
            self.limits.stall_limit.min(STALL_LIMIT_UNDER_PRESSURE)
        } else {
            self.limits.stall_limit
        };
        self.connections.lock().retain(|connection| {
            let Some(connection) = connection.upgrade() else {
                return false;
            };
            if connection.is_stalled(now, stall_limit) && connection.close() {
                self.closed.inc();
                tracing::info!("a client took no reply for too long, closing its connection");
            }
            true
        });
    }
}

fn to_i64(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
