//! Makes the counters of a layer and prints those of all, as Prometheus reads them.
//!
//! Knows neither wire nor database: each layer keeps instruments of its own, made once, so that to
//! count is an atomic addition. `docs/operations.md` lists them all.

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

/// The instruments of one layer.
#[derive(Clone, Default)]
pub(crate) struct Registry(prometheus::Registry);

impl Registry {
    /// A count that only grows; its name ends with `_total`.
    pub(crate) fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.keep(IntCounter::new(name, help))
    }

    pub(crate) fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.keep(IntCounterVec::new(Opts::new(name, help), labels))
    }

    /// A number that goes up and down.
    pub(crate) fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.keep(IntGauge::new(name, help))
    }

    /// A time that goes up and down.
    pub(crate) fn seconds(&self, name: &str, help: &str) -> Gauge {
        self.keep(Gauge::new(name, help))
    }

    pub(crate) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.keep(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    /// A distribution; buckets are upper bounds.
    pub(crate) fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.keep(Histogram::with_opts(options))
    }

    pub(crate) fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> HistogramVec {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.keep(HistogramVec::new(options, labels))
    }

    /// What the instruments say now.
    pub(crate) fn gather(&self) -> Vec<MetricFamily> {
        self.0.gather()
    }

    fn keep<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let instrument = made.expect("names and buckets are constants that Prometheus accepts");
        self.0
            .register(Box::new(instrument.clone()))
            .expect("no two instruments have the same name");
        instrument
    }
}

/// The text that Prometheus scrapes.
///
/// # Errors
/// When a metric cannot be printed, which is a bug.
pub(crate) fn text(families: &[MetricFamily]) -> prometheus::Result<String> {
    TextEncoder::new().encode_to_string(families)
}
