//! Prometheus metrics: a registry for each layer, the metrics of the process, and the text format.
//!
//! Depends on no other layer. Each layer creates its instruments once, so that counting is an atomic addition.
//! `docs/operations.md` lists all metrics.

mod process;

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    TextEncoder,
};

pub(crate) use process::process;

/// The content type of [`text`].
pub(crate) const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// The instruments of a layer.
#[derive(Clone, Default)]
pub(crate) struct Registry(prometheus::Registry);

impl Registry {
    /// Creates a counter; its name ends with `_total`.
    pub(crate) fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::new(name, help))
    }

    pub(crate) fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register(IntCounterVec::new(Opts::new(name, help), labels))
    }

    /// Creates a gauge of a whole number.
    pub(crate) fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(IntGauge::new(name, help))
    }

    /// Creates a gauge of a duration in seconds.
    pub(crate) fn seconds(&self, name: &str, help: &str) -> Gauge {
        self.register(Gauge::new(name, help))
    }

    pub(crate) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.register(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    /// Creates a histogram; the buckets are inclusive upper bounds.
    pub(crate) fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.register(Histogram::with_opts(options))
    }

    pub(crate) fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> HistogramVec {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.register(HistogramVec::new(options, labels))
    }

    /// Returns the current values.
    pub(crate) fn gather(&self) -> Vec<MetricFamily> {
        self.0.gather()
    }

    fn register<C: Collector + Clone + 'static>(&self, instrument: prometheus::Result<C>) -> C {
        let instrument = instrument.expect("names and buckets are constants that Prometheus accepts");
        self.0
            .register(Box::new(instrument.clone()))
            .expect("no two instruments have the same name");
        instrument
    }
}

/// Encodes metrics in Prometheus' text format.
///
/// # Errors
/// When a metric cannot be encoded, which is a bug.
pub(crate) fn text(families: &[MetricFamily]) -> prometheus::Result<String> {
    TextEncoder::new().encode_to_string(families)
}
