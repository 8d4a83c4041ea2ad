//! Metrics of the store. Counters and histograms are updated by the code that they measure; gauges, such as
//! the queue depth, are set at each scrape.

use std::time::{Duration, SystemTime};

use prometheus::proto::MetricFamily;
use prometheus::{Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::pool::PoolUsage;
use crate::domain::change::ChangeKind;
use crate::domain::purge::PurgeSelection;
use crate::metrics::Registry;

const SECONDS: [f64; 13] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0,
];
const EVENTS: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];
const LAG_SECONDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0];

/// The metrics of the store. Cheap to clone.
#[derive(Clone)]
pub(in crate::store) struct StoreMetrics {
    registry: Registry,
    pub(in crate::store) queue: QueueMetrics,
    pub(in crate::store) flushes: FlushMetrics,
    changes: IntCounterVec,
    pool: PoolMetrics,
    pub(in crate::store) live: LiveMetrics,
    standby: StandbyMetrics,
    pub(in crate::store) purges: PurgeMetrics,
}

impl Default for StoreMetrics {
    fn default() -> Self {
        let registry = Registry::default();
        Self {
            queue: QueueMetrics::new(&registry),
            flushes: FlushMetrics::new(&registry),
            changes: change_counters(&registry),
            pool: PoolMetrics::new(&registry),
            live: LiveMetrics::new(&registry),
            standby: StandbyMetrics::new(&registry),
            purges: PurgeMetrics::new(&registry),
            registry,
        }
    }
}

impl StoreMetrics {
    /// Returns the counter of reads that may use the standby and had this outcome.
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

    /// Sets the gauges of the connection pool for reads and edits.
    pub(in crate::store) fn set_pool(&self, usage: &PoolUsage) {
        let connections = |state| self.pool.connections.with_label_values(&[state]);
        connections("in_use").set(number(usage.in_use));
        connections("idle").set(number(usage.idle));
        self.pool.connections_max.set(number(usage.max));
        self.pool.waiting.set(number(usage.waiting));
        let counted = self.pool.refusals.get();
        self.pool.refusals.inc_by(usage.refusals.saturating_sub(counted));
    }

    /// Sets the gauge of the replication lag; `None` while the standby cannot be read.
    pub(in crate::store) fn set_standby_lag(&self, lag: Option<Duration>) {
        let seconds = lag.map_or(f64::INFINITY, |lag| lag.as_secs_f64());
        self.standby.lag.set(seconds);
    }

    /// Counts changes that were committed.
    pub(in crate::store) fn count_changes(&self, kind: ChangeKind, count: u64) {
        self.changes.with_label_values(&[kind.name()]).inc_by(count);
    }

    /// Sets the number of spirits that have subscriptions, and the numbers of subscriptions to events and to changes.
    pub(in crate::store) fn set_live(&self, spirits: usize, streams: usize, change_streams: usize) {
        self.live.spirits.set(number(spirits));
        self.live.streams.set(number(streams));
        self.live.change_streams.set(number(change_streams));
    }

    /// Returns the current values of all metrics.
    pub(in crate::store) fn gather(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }
}

/// Usage of one part of the write queue.
pub(in crate::store) struct QueueUsage {
    pub(in crate::store) events: usize,
    pub(in crate::store) events_max: usize,
    pub(in crate::store) bytes: usize,
    pub(in crate::store) bytes_max: usize,
}

/// Metrics of the write queue.
#[derive(Clone)]
pub(in crate::store) struct QueueMetrics {
    events: IntGaugeVec,
    bytes: IntGaugeVec,
    events_max: IntGaugeVec,
    bytes_max: IntGaugeVec,
    pub(in crate::store) overloads: IntCounter,
}

impl QueueMetrics {
    fn new(registry: &Registry) -> Self {
        let share = &["share"];
        Self {
            events: registry.gauges(
                "events_ingest_queue_events",
                "Events that are queued or in a flush, of unary calls and of ingest streams",
                share,
            ),
            bytes: registry.gauges(
                "events_ingest_queue_bytes",
                "Bytes of the events that are queued or in a flush, in steps of 1 KiB",
                share,
            ),
            events_max: registry.gauges(
                "events_ingest_queue_events_max",
                "Limit of queued events, beyond which calls are refused as overloaded and streams wait",
                share,
            ),
            bytes_max: registry.gauges(
                "events_ingest_queue_bytes_max",
                "Limit of queued bytes, beyond which calls are refused as overloaded and streams wait",
                share,
            ),
            overloads: registry.counter(
                "events_overload_refusals_total",
                "Creates and batches refused because the queue was full",
            ),
        }
    }
}

/// Metrics of flushes.
#[derive(Clone)]
pub(in crate::store) struct FlushMetrics {
    /// Events per flush.
    pub(in crate::store) events: Histogram,
    /// Duration of a flush.
    pub(in crate::store) seconds: Histogram,
    pub(in crate::store) failures: IntCounter,
    pub(in crate::store) stored: IntCounter,
    pub(in crate::store) duplicates: IntCounter,
}

impl FlushMetrics {
    fn new(registry: &Registry) -> Self {
        Self {
            events: registry.histogram(
                "events_flush_events",
                "Events per commit, duplicates and refused events included",
                &EVENTS,
            ),
            seconds: registry.histogram(
                "events_flush_seconds",
                "Duration of a commit of events, waiting for locks included",
                &SECONDS,
            ),
            failures: registry.counter(
                "events_flush_failures_total",
                "Failed commits of events; some are retried",
            ),
            stored: registry.counter("events_stored_total", "New events committed"),
            duplicates: registry.counter(
                "events_duplicates_total",
                "Creates whose dedupe key was already taken",
            ),
        }
    }
}

/// Metrics of the connection pool for reads and edits.
#[derive(Clone)]
struct PoolMetrics {
    connections: IntGaugeVec,
    connections_max: IntGauge,
    waiting: IntGauge,
    refusals: IntCounter,
}

impl PoolMetrics {
    fn new(registry: &Registry) -> Self {
        Self {
            connections: registry.gauges(
                "events_pool_connections",
                "Connections for reads and edits, in use and idle",
                &["state"],
            ),
            connections_max: registry.gauge(
                "events_pool_connections_max",
                "Size limit of the pool of connections for reads and edits",
            ),
            waiting: registry.gauge("events_pool_waiting", "Statements waiting for a connection"),
            refusals: registry.counter(
                "events_pool_refusals_total",
                "Statements refused because no connection became free in time",
            ),
        }
    }
}

fn change_counters(registry: &Registry) -> IntCounterVec {
    let counters = registry.counters(
        "events_changes_total",
        "Changes of events committed, by kind; a bulk change counts once for each 1,000 events",
        &["kind"],
    );
    // Creates each series with 0, so that the first count is visible as an increase.
    for kind in ChangeKind::ALL {
        counters.with_label_values(&[kind.name()]);
    }
    counters
}

/// Metrics of live streams.
#[derive(Clone)]
pub(in crate::store) struct LiveMetrics {
    streams: IntGauge,
    change_streams: IntGauge,
    spirits: IntGauge,
    /// Time from an event's commit to its delivery to a stream that had caught up.
    pub(in crate::store) delivery_lag: Histogram,
    /// 1 while notifications of other instances are received, else 0.
    pub(in crate::store) listening: IntGauge,
}

impl LiveMetrics {
    fn new(registry: &Registry) -> Self {
        Self {
            streams: registry.gauge(
                "events_live_streams",
                "Streams that follow a spirit or a session",
            ),
            change_streams: registry.gauge(
                "events_live_change_streams",
                "Streams that follow the changes of a spirit",
            ),
            spirits: registry.gauge("events_live_spirits", "Spirits that are followed by a stream"),
            delivery_lag: registry.histogram(
                "events_delivery_lag_seconds",
                "Time from an event's commit (database clock) to its delivery to a stream that had caught up (server clock)",
                &LAG_SECONDS,
            ),
            listening: registry.gauge(
                "events_listen_up",
                "1 while LISTEN works, so that commits of other instances are noticed at once; 0 while they are polled for",
            ),
        }
    }
}

/// Metrics of purges.
#[derive(Clone)]
pub(in crate::store) struct PurgeMetrics {
    events: IntCounterVec,
    /// Duration of a step.
    pub(in crate::store) steps: Histogram,
    pub(in crate::store) retention_failures: IntCounter,
    retention_time: Gauge,
}

impl PurgeMetrics {
    fn new(registry: &Registry) -> Self {
        let metrics = Self {
            events: registry.counters(
                "events_purged_total",
                "Events removed for good, by the selection of their purge",
                &["selection"],
            ),
            steps: registry.histogram(
                "events_purge_step_seconds",
                "Duration of a step of a purge or of retention, waiting for locks included",
                &SECONDS,
            ),
            retention_failures: registry.counter(
                "events_retention_failures_total",
                "Runs of retention that failed; the next one goes on",
            ),
            retention_time: registry.seconds(
                "events_retention_completed_timestamp_seconds",
                "Unix time at which a run of retention was last complete, or found another instance at work; \
                 initially the start of the server",
            ),
        };
        for selection in PurgeSelection::ALL {
            metrics.count(selection, 0);
        }
        metrics.record_sweep();
        metrics
    }

    /// Counts events that were purged.
    pub(in crate::store) fn count(&self, selection: PurgeSelection, events: u64) {
        self.events.with_label_values(&[selection.name()]).inc_by(events);
    }

    /// Records that a run of retention is complete.
    pub(in crate::store) fn record_sweep(&self) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        self.retention_time.set(now.unwrap_or_default().as_secs_f64());
    }
}

/// Metrics of the standby.
#[derive(Clone)]
struct StandbyMetrics {
    reads: IntCounterVec,
    lag: Gauge,
}

impl StandbyMetrics {
    fn new(registry: &Registry) -> Self {
        let metrics = Self {
            reads: registry.counters(
                "events_standby_reads_total",
                "Reads that may use the standby. served: by the standby; missed: served, but not found there, so the \
                 primary was read as well; failed, lagging: sent to the primary for this reason",
                &["outcome"],
            ),
            lag: registry.seconds(
                "events_standby_lag_seconds",
                "Upper bound of the standby's replication lag; +Inf while it cannot be read, 0 without a standby",
            ),
        };
        // Creates each series with 0, so that the first count is visible as an increase.
        for outcome in StandbyRead::ALL {
            metrics.reads(outcome);
        }
        metrics
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

/// Outcome of a read that may use the standby.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) enum StandbyRead {
    /// The standby served the read.
    Served,
    /// The standby failed, so the primary served the read.
    Failed,
    /// The standby did not have the event or spirit, so the primary was read as well. Counted in addition to
    /// `Served`.
    Missed,
    /// The lag of the standby was too large or unknown, so the primary served the read.
    Lagging,
}

impl StandbyRead {
    const ALL: [Self; 4] = [Self::Served, Self::Failed, Self::Missed, Self::Lagging];
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
