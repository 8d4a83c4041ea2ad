//! The report of a run, for people or as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::json;
use tonic::Code;

use super::{BenchArgs, Workload};

/// Highest latency that can be recorded, in microseconds; longer ones are recorded as this.
const LATENCY_MICROS_MAX: u64 = 600_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;

/// Latencies of successful calls, number of events, and counts of errors by kind.
pub(super) struct Tally {
    latency: Histogram<u64>,
    events: u64,
    errors: BTreeMap<String, u64>,
}

impl Tally {
    pub(super) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            latency: Histogram::new_with_bounds(1, LATENCY_MICROS_MAX, SIGNIFICANT_DIGITS)?,
            events: 0,
            errors: BTreeMap::new(),
        })
    }

    /// Records a call that was answered with OK and stored or returned this number of events.
    pub(super) fn answered(&mut self, latency: Duration, events: usize) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.latency.saturating_record(micros.max(1));
        self.events += events as u64;
    }

    pub(super) fn refused(&mut self, code: Code) {
        self.record_errors(&format!("{code:?}"), 1);
    }

    /// Records stored events that do not count as calls.
    pub(super) fn stored(&mut self, events: usize) {
        self.events += events as u64;
    }

    /// Records errors of a kind: a status code, or `missing` or `repeated` deliveries.
    pub(super) fn record_errors(&mut self, kind: &str, count: u64) {
        if count > 0 {
            *self.errors.entry(kind.to_owned()).or_default() += count;
        }
    }

    pub(super) fn add(&mut self, other: &Self) -> anyhow::Result<()> {
        self.latency.add(&other.latency)?;
        self.events += other.events;
        for (code, count) in &other.errors {
            *self.errors.entry(code.clone()).or_default() += count;
        }
        Ok(())
    }

    pub(super) fn failed(&self) -> bool {
        !self.errors.is_empty()
    }
}

pub(super) struct Report<'t> {
    workload: String,
    concurrency: usize,
    /// The things that `concurrency` counts.
    unit: &'static str,
    seconds: f64,
    tally: &'t Tally,
}

impl<'t> Report<'t> {
    pub(super) fn new(args: &BenchArgs, tally: &'t Tally) -> Self {
        let (concurrency, unit) = match args.workload {
            Workload::Watch => (args.watchers, "watchers"),
            _ => (args.concurrency, "in flight"),
        };
        Self {
            workload: format!("{:?}", args.workload).to_lowercase(),
            concurrency,
            unit,
            seconds: args.duration,
            tally,
        }
    }

    #[allow(clippy::cast_precision_loss)] // rates
    fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }

    /// Returns quantiles and the maximum of the latency in milliseconds.
    #[allow(clippy::cast_precision_loss)]
    fn latencies(&self) -> [(&'static str, f64); 4] {
        let latency = &self.tally.latency;
        let millis = |micros: u64| micros as f64 / 1_000.0;
        [
            ("p50", millis(latency.value_at_quantile(0.5))),
            ("p90", millis(latency.value_at_quantile(0.9))),
            ("p99", millis(latency.value_at_quantile(0.99))),
            ("max", millis(latency.max())),
        ]
    }

    pub(super) fn text(&self) -> String {
        let calls = self.tally.latency.len();
        let mut text = format!(
            "{}, {} {}, {} s: {:.0} calls/s, {:.0} events/s\nlatency",
            self.workload,
            self.concurrency,
            self.unit,
            self.seconds,
            self.per_second(calls),
            self.per_second(self.tally.events)
        );
        for (name, millis) in self.latencies() {
            write!(text, "  {name} {millis:.2} ms").expect("writing to a String cannot fail");
        }
        text.push('\n');
        for (code, count) in &self.tally.errors {
            writeln!(text, "errors  {code} {count}").expect("writing to a String cannot fail");
        }
        text
    }

    pub(super) fn json(&self) -> String {
        let calls = self.tally.latency.len();
        json!({
            "workload": self.workload,
            "concurrency": self.concurrency,
            "seconds": self.seconds,
            "calls": calls,
            "events": self.tally.events,
            "calls_per_second": self.per_second(calls),
            "events_per_second": self.per_second(self.tally.events),
            "latency_ms": self.latencies().into_iter().collect::<BTreeMap<_, _>>(),
            "errors": self.tally.errors,
        })
        .to_string()
    }
}
