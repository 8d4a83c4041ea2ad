//! Serves `/metrics`, `/healthz` and `/readyz` to operators, over plain HTTP on a separate address.
//!
//! They require no authentication, so the address must be reachable only from the operators' network. They do
//! not use the database, so they work while it is unavailable.

mod listener;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::IntGauge;
use prometheus::proto::MetricFamily;
use tokio::net::TcpListener;

use crate::grpc::{CallLayer, ReplyBudget};
use crate::metrics::{self, Registry};
use crate::store::Store;
use crate::telemetry;

/// The state of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The database has not been reached and migrated yet.
    Starting,
    /// Calls are served.
    Serving,
    /// The database does not respond.
    DatabaseAway,
    /// The server is shutting down; calls in progress finish.
    Draining,
}

impl Stage {
    /// Every stage with its description, indexed by the stage's discriminant.
    const ALL: [(Self, &'static str); 4] = [
        (
            Self::Starting,
            "starting: the database has not been reached and migrated yet\n",
        ),
        (Self::Serving, "serving\n"),
        (Self::DatabaseAway, "the database does not respond\n"),
        (Self::Draining, "draining: shutting down\n"),
    ];
}

/// The current [`Stage`], and the metrics derived from it. Cheap to clone.
#[derive(Clone)]
pub struct Readiness {
    stage: Arc<AtomicU8>,
    registry: Registry,
    ready: IntGauge,
    database_up: IntGauge,
}

impl Readiness {
    /// Returns the readiness of a server at [`Stage::Starting`].
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::default();
        let labels = &["version"];
        registry
            .gauges(
                "events_build_info",
                "Always 1; the label is the version of the binary",
                labels,
            )
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);
        Self {
            stage: Arc::default(),
            ready: registry.gauge("events_ready", "Whether calls are served, as in /readyz: 1 or 0"),
            database_up: registry.gauge(
                "events_database_up",
                "Whether the last probe of the database succeeded: 1 or 0",
            ),
            registry,
        }
    }

    /// Sets the stage and its metrics.
    pub fn set(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Release);
        self.ready.set((stage == Stage::Serving).into());
        match stage {
            Stage::Serving => self.database_up.set(1),
            Stage::Starting | Stage::DatabaseAway => self.database_up.set(0),
            Stage::Draining => {}
        }
    }

    /// Returns the stage and its description.
    fn get(&self) -> (Stage, &'static str) {
        Stage::ALL[usize::from(self.stage.load(Ordering::Acquire))]
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

/// The sources of the endpoints' data.
#[derive(Clone)]
pub struct Admin {
    pub calls: CallLayer,
    pub store: Store,
    pub readiness: Readiness,
    pub replies: ReplyBudget,
}

/// Serves until the future is dropped.
pub async fn serve(listener: TcpListener, admin: Admin) {
    let routes = Router::new()
        .route("/metrics", get(scrape))
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .with_state(admin);
    listener::serve(listener, routes).await;
}

async fn ready(State(admin): State<Admin>) -> (StatusCode, &'static str) {
    match admin.readiness.get() {
        (Stage::Serving, text) => (StatusCode::OK, text),
        (_, text) => (StatusCode::SERVICE_UNAVAILABLE, text),
    }
}

async fn scrape(State(admin): State<Admin>) -> Response {
    let mut families = admin.calls.metrics();
    families.extend(admin.store.metrics());
    families.extend(admin.replies.metrics());
    families.extend(admin.readiness.registry.gather());
    families.extend(metrics::process());
    families.extend(log_metrics());
    match metrics::text(&families) {
        Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics cannot be encoded");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn log_metrics() -> Vec<MetricFamily> {
    let registry = Registry::default();
    let help = "Log lines that were dropped because the log was not read fast enough";
    let dropped = registry.counter("events_log_lines_dropped_total", help);
    dropped.inc_by(telemetry::dropped_log_lines());
    registry.gather()
}
