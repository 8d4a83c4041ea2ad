//! What operators ask, over plain HTTP on an address of its own: `/metrics`, `/healthz`, `/readyz`.
//!
//! Nothing here asks who asks and nothing touches the database, so it answers while that is away. The
//! address belongs to the operators' network alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::IntGauge;
use tokio::net::TcpListener;

use crate::grpc::CallLayer;
use crate::metrics::{self, Registry};
use crate::store::Store;

/// What the server is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The database has not been reached and migrated yet.
    Starting,
    Serving,
    /// The database does not answer.
    DatabaseAway,
    /// Told to end; calls under way finish.
    Draining,
}

impl Stage {
    const ALL: [(Self, &'static str); 4] = [
        (
            Self::Starting,
            "starting: the database was not reached and migrated yet\n",
        ),
        (Self::Serving, "serving\n"),
        (Self::DatabaseAway, "the database does not answer\n"),
        (Self::Draining, "draining: told to end\n"),
    ];
}

/// What the server is doing, as it says so here. Cheap to clone.
#[derive(Clone)]
pub struct Readiness {
    stage: Arc<AtomicU8>,
    registry: Registry,
    ready: IntGauge,
    database_up: IntGauge,
}

impl Readiness {
    /// Of a server that starts.
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::default();
        let labels = &["version"];
        registry
            .gauges("events_build_info", "Always 1; the label is what runs", labels)
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);
        Self {
            stage: Arc::default(),
            ready: registry.gauge(
                "events_ready",
                "Whether calls are served, as /readyz says: 1 or 0",
            ),
            database_up: registry.gauge(
                "events_database_up",
                "Whether the database answered when it was last asked: 1 or 0",
            ),
            registry,
        }
    }

    pub fn set(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Release);
        self.ready.set((stage == Stage::Serving).into());
        match stage {
            Stage::Serving => self.database_up.set(1),
            Stage::Starting | Stage::DatabaseAway => self.database_up.set(0),
            Stage::Draining => {}
        }
    }

    fn get(&self) -> (Stage, &'static str) {
        Stage::ALL[usize::from(self.stage.load(Ordering::Acquire))]
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

/// Where the answers come from.
#[derive(Clone)]
pub struct Admin {
    pub calls: CallLayer,
    pub store: Store,
    pub readiness: Readiness,
}

/// Answers until it is dropped.
pub async fn serve(listener: TcpListener, admin: Admin) {
    let routes = Router::new()
        .route("/metrics", get(scrape))
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .with_state(admin);
    if let Err(error) = axum::serve(listener, routes).await {
        tracing::error!(%error, "the admin address is no longer served");
    }
}

async fn ready(State(admin): State<Admin>) -> (StatusCode, &'static str) {
    match admin.readiness.get() {
        (Stage::Serving, says) => (StatusCode::OK, says),
        (_, says) => (StatusCode::SERVICE_UNAVAILABLE, says),
    }
}

async fn scrape(State(admin): State<Admin>) -> Response {
    let mut families = admin.calls.metrics();
    families.extend(admin.store.metrics());
    families.extend(admin.readiness.registry.gather());
    families.extend(metrics::process());
    match metrics::text(&families) {
        Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics cannot be printed");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
