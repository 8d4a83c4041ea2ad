//! What the store counts. Events happening are counted as they happen; what is simply there, as the
//! depth of the queue, is looked at when somebody asks.

use std::time::Duration;

use prometheus::proto::MetricFamily;
use prometheus::{Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::pool::PoolUsage;
use crate::metrics::Registry;

const SECONDS: [f64; 13] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0,
];
const EVENTS: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];
const LAG_SECONDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0];

/// The instruments. Cheap to clone.
#[derive(Clone)]
pub(in crate::store) struct StoreMetrics {
    registry: Registry,
    pub(in crate::store) queue: Queue,
    pub(in crate::store) flushes: Flushes,
    pool: Pool,
    pub(in crate::store) live: Live,
    standby: Standby,
}

impl Default for StoreMetrics {
    fn default() -> Self {
        let registry = Registry::default();
        Self {
            queue: Queue::new(&registry),
            flushes: Flushes::new(&registry),
            pool: Pool::new(&registry),
            live: Live::new(&registry),
            standby: Standby::new(&registry),
            registry,
        }
    }
}

/// How full one part of the queue is.
pub(in crate::store) struct QueueUsage {
    pub(in crate::store) events: usize,
    pub(in crate::store) events_max: usize,
    pub(in crate::store) bytes: usize,
    pub(in crate::store) bytes_max: usize,
}

/// The queue of events to be stored.
#[derive(Clone)]
pub(in crate::store) struct Queue {
    events: IntGaugeVec,
    bytes: IntGaugeVec,
    events_max: IntGaugeVec,
    bytes_max: IntGaugeVec,
    pub(in crate::store) overloads: IntCounter,
}

impl Queue {
    fn new(registry: &Registry) -> Self {
        let share = &["share"];
        Self {
            events: registry.gauges(
                "events_ingest_queue_events",
                "Events that wait to be stored or are in a flush, of unary calls and of ingest streams",
                share,
            ),
            bytes: registry.gauges(
                "events_ingest_queue_bytes",
                "Bytes of the events that wait to be stored or are in a flush, in steps of 1 KiB",
                share,
            ),
            events_max: registry.gauges(
                "events_ingest_queue_events_max",
                "Events at which calls are refused as overloaded and streams wait",
                share,
            ),
            bytes_max: registry.gauges(
                "events_ingest_queue_bytes_max",
                "Bytes at which calls are refused as overloaded and streams wait",
                share,
            ),
            overloads: registry.counter(
                "events_overload_refusals_total",
                "Creates and batches refused because the queue was full",
            ),
        }
    }
}

/// What is stored.
#[derive(Clone)]
pub(in crate::store) struct Flushes {
    /// Of a flush, and how long it took.
    pub(in crate::store) events: Histogram,
    pub(in crate::store) seconds: Histogram,
    pub(in crate::store) failures: IntCounter,
    pub(in crate::store) stored: IntCounter,
    pub(in crate::store) duplicates: IntCounter,
}

impl Flushes {
    fn new(registry: &Registry) -> Self {
        Self {
            events: registry.histogram("events_flush_events", "Events that one commit decided", &EVENTS),
            seconds: registry.histogram(
                "events_flush_seconds",
                "Time that a commit of events took, waiting for locks included",
                &SECONDS,
            ),
            failures: registry.counter(
                "events_flush_failures_total",
                "Commits of events that failed; some are tried again",
            ),
            stored: registry.counter("events_stored_total", "New events that were committed"),
            duplicates: registry.counter("events_duplicates_total", "Creates whose dedupe key was taken"),
        }
    }
}

/// Connections for reads and edits.
#[derive(Clone)]
struct Pool {
    connections: IntGaugeVec,
    connections_max: IntGauge,
    waiting: IntGauge,
}

impl Pool {
    fn new(registry: &Registry) -> Self {
        Self {
            connections: registry.gauges(
                "events_pool_connections",
                "Connections for reads and edits, in use and idle",
                &["state"],
            ),
            connections_max: registry.gauge(
                "events_pool_connections_max",
                "Connections for reads and edits that there may be",
            ),
            waiting: registry.gauge("events_pool_waiting", "Statements that wait for a connection"),
        }
    }
}

/// Streams that follow what is stored.
#[derive(Clone)]
pub(in crate::store) struct Live {
    streams: IntGauge,
    spirits: IntGauge,
    /// From an event's commit until a live stream that had caught up was given it.
    pub(in crate::store) delivery_lag: Histogram,
    /// Whether other instances' hints are heard.
    pub(in crate::store) listening: IntGauge,
}

impl Live {
    fn new(registry: &Registry) -> Self {
        Self {
            streams: registry.gauge(
                "events_live_streams",
                "Streams that follow a spirit or a session",
            ),
            spirits: registry.gauge("events_live_spirits", "Spirits that some stream follows"),
            delivery_lag: registry.histogram(
                "events_delivery_lag_seconds",
                "From an event's commit, by the database's clock, to its delivery to a stream that had caught up, by the server's",
                &LAG_SECONDS,
            ),
            listening: registry.gauge(
                "events_listen_up",
                "Whether LISTEN works, so that other instances' commits are heard of at once: 1 or 0",
            ),
        }
    }
}

/// The standby, where there is one.
#[derive(Clone)]
struct Standby {
    reads: IntCounterVec,
    lag: Gauge,
}

impl Standby {
    fn new(registry: &Registry) -> Self {
        let made = Self {
            reads: registry.counters(
                "events_standby_reads_total",
                "Reads that may go to the standby: served there, of those missed, so that the primary was asked, too; or \
                 sent to the primary, since the standby failed or was lagging",
                &["outcome"],
            ),
            lag: registry.seconds(
                "events_standby_lag_seconds",
                "How far the standby is behind at the most; +Inf while it cannot be read, 0 where there is none",
            ),
        };
        // The first one is an increase already.
        for read in StandbyRead::ALL {
            made.reads(read);
        }
        made
    }

    fn reads(&self, outcome: StandbyRead) -> IntCounter {
        let outcome = match outcome {
            StandbyRead::Served => "served",
            StandbyRead::Failed => "failed",
            StandbyRead::Missed => "missed",
            StandbyRead::Lagging => "lagging",
        };
        self.reads.with_label_values(&[outcome])
    }
}

/// How a read ended that might go to the standby.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) enum StandbyRead {
    Served,
    Failed,
    Missed,
    Lagging,
}

impl StandbyRead {
    const ALL: [Self; 4] = [Self::Served, Self::Failed, Self::Missed, Self::Lagging];
}

impl StoreMetrics {
    pub(in crate::store) fn standby_reads(&self, outcome: StandbyRead) -> IntCounter {
        self.standby.reads(outcome)
    }

    /// Sets the gauges of one part of the queue: `calls` or `streams`.
    pub(in crate::store) fn set_queue(&self, share: &str, usage: &QueueUsage) {
        let set = |gauge: &IntGaugeVec, value| gauge.with_label_values(&[share]).set(number(value));
        set(&self.queue.events, usage.events);
        set(&self.queue.events_max, usage.events_max);
        set(&self.queue.bytes, usage.bytes);
        set(&self.queue.bytes_max, usage.bytes_max);
    }

    pub(in crate::store) fn set_pool(&self, usage: &PoolUsage) {
        let connections = |state| self.pool.connections.with_label_values(&[state]);
        connections("in_use").set(number(usage.in_use));
        connections("idle").set(number(usage.idle));
        self.pool.connections_max.set(number(usage.max));
        self.pool.waiting.set(number(usage.waiting));
    }

    /// Sets the replication lag; `None` while the standby cannot be read.
    pub(in crate::store) fn set_standby_lag(&self, lag: Option<Duration>) {
        let seconds = lag.map_or(f64::INFINITY, |lag| lag.as_secs_f64());
        self.standby.lag.set(seconds);
    }

    pub(in crate::store) fn set_live(&self, spirits: usize, streams: usize) {
        self.live.spirits.set(number(spirits));
        self.live.streams.set(number(streams));
    }

    pub(in crate::store) fn gather(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
