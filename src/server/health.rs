//! Reports the health of the server through the standard gRPC health service, and its readiness to operators.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::admin::{Readiness, Stage};
use crate::grpc::pb::access_service_server::SERVICE_NAME as ACCESS_SERVICE;
use crate::grpc::pb::event_service_server::SERVICE_NAME as EVENT_SERVICE;
use crate::grpc::pb::session_service_server::SERVICE_NAME as SESSION_SERVICE;
use crate::grpc::pb::spirit_service_server::SERVICE_NAME as SPIRIT_SERVICE;
use crate::panics::keep_running;
use crate::store::Store;

/// Service names known to the health service; the empty name stands for the whole server.
const SERVICES: [&str; 5] = ["", EVENT_SERVICE, SESSION_SERVICE, SPIRIT_SERVICE, ACCESS_SERVICE];
/// Pause between two probes of the database.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// Time limit of a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// Publishes the [`Stage`] of the server to clients, load balancers and operators. Cheap to clone.
#[derive(Clone)]
pub(super) struct Health {
    reporter: HealthReporter,
    readiness: Readiness,
}

impl Health {
    /// Returns the health and its gRPC service.
    pub(super) fn new() -> (Self, Routes) {
        let (reporter, service) = tonic_health::server::health_reporter();
        let health = Self {
            reporter,
            readiness: Readiness::new(),
        };
        (health, Routes::new(service))
    }

    pub(super) fn readiness(&self) -> Readiness {
        self.readiness.clone()
    }

    pub(super) async fn set(&self, stage: Stage) {
        self.readiness.set(stage);
        let status = if stage == Stage::Serving {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        for service in SERVICES {
            self.reporter.set_service_status(service, status).await;
        }
    }

    /// Ends the health service's Watch streams after they have sent the last status. They have no end of
    /// their own and load balancers keep them open, so that otherwise each drain would take its whole time
    /// limit.
    pub(super) async fn end_watches(&self) {
        let mut reporter = self.reporter.clone();
        for service in SERVICES {
            reporter.clear_service_status(service).await;
        }
    }
}

/// Marks the server as serving, then probes the database and keeps the health up to date. Does not return.
pub(super) async fn probe_database(
    store: &Store,
    health: &Health,
    migrated: &AtomicBool,
    ready: oneshot::Sender<()>,
) {
    // Opens the connection of the probes before calls compete for connections.
    if let Err(cause) = store.ping().await {
        tracing::debug!(%cause, "the first probe of the database failed");
    }
    migrated.store(true, Ordering::Release);
    health.set(Stage::Serving).await;
    if ready.send(()).is_err() {
        tracing::debug!("the receiver of the ready signal was dropped");
    }

    let (store, health, mut serving) = (store.clone(), health.clone(), true);
    keep_running("health probe", async move || {
        loop {
            sleep(PROBE_INTERVAL).await;
            probe_once(&store, &health, &mut serving).await;
        }
    })
    .await;
}

async fn probe_once(store: &Store, health: &Health, serving: &mut bool) {
    let is_up = matches!(timeout(PROBE_TIMEOUT, store.ping()).await, Ok(Ok(())));
    if is_up == *serving {
        return;
    }
    tracing::warn!(serving = is_up, "the result of the database probe changed");
    if !is_up {
        store.live.end_all();
    }
    let stage = if is_up {
        Stage::Serving
    } else {
        Stage::DatabaseAway
    };
    health.set(stage).await;
    *serving = is_up;
}
