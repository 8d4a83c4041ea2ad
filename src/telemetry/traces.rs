//! Exports traces by OTLP over gRPC if OpenTelemetry's standard environment variables name a collector.
//!
//! Only spans of the target [`SPANS`] are exported. Without a subscriber to the target, creating a span costs no
//! more than reading a flag.

use std::sync::OnceLock;
use std::time::Duration;

use http::HeaderMap;
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{Level, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;

use super::{AnyLayer, collector, variable};
use crate::config::BadSettings;

/// The target of every span, at level DEBUG.
const SPANS: &str = "spans";
const SERVICE: &str = "elephantasm-events";
/// Time limit for exporting the last spans at exit.
const END_LIMIT: Duration = Duration::from_secs(3);

static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

/// Returns true if spans are exported to a collector or logged at this level.
pub(crate) fn are_wanted() -> bool {
    tracing::enabled!(target: SPANS, Level::DEBUG)
}

/// Returns the layer that exports spans, or `None` if no variable names a collector. Needs a Tokio runtime.
pub(super) fn layer() -> Result<Option<AnyLayer>, BadSettings> {
    let Some(exporter) = collector::exporter()? else {
        return Ok(None);
    };
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource())
        .build();
    let tracer = provider.tracer(SERVICE);
    if PROVIDER.set(provider).is_err() {
        return Err(BadSettings("traces are exported already".to_owned()));
    }
    let spans = Targets::new().with_target(SPANS, Level::DEBUG);
    Ok(Some(
        tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_filter(spans)
            .boxed(),
    ))
}

/// Makes the span part of the trace in the caller's `traceparent` header. The span must not have been entered yet.
pub(crate) fn continue_from(span: &Span, headers: &HeaderMap) {
    if !span.is_disabled() {
        let parent = TraceContextPropagator::new().extract(&Headers(headers));
        // Fails if spans go only to the log; then no trace exists to continue.
        span.set_parent(parent).unwrap_or_default();
    }
}

/// Returns the trace id of an exported span, as 32 hex digits.
pub(crate) fn trace_id(span: &Span) -> Option<String> {
    if span.is_disabled() {
        return None;
    }
    let context = span.context();
    let context = context.span().span_context().clone();
    context.is_valid().then(|| context.trace_id().to_string())
}

/// Exports the remaining spans. Must be called before the runtime ends.
pub(super) fn end() {
    if let Some(provider) = PROVIDER.get()
        && let Err(error) = provider.shutdown_with_timeout(END_LIMIT)
    {
        tracing::warn!(%error, "the last spans were not exported");
    }
}

/// Returns the resource of the process: the environment's attributes, its version, and a default service name.
fn resource() -> Resource {
    let version = opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource = Resource::builder().with_attribute(version);
    let is_named = !variable("OTEL_SERVICE_NAME").is_empty()
        || variable("OTEL_RESOURCE_ATTRIBUTES").contains("service.name=");
    if is_named {
        resource.build()
    } else {
        resource.with_service_name(SERVICE).build()
    }
}

struct Headers<'h>(&'h HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}
