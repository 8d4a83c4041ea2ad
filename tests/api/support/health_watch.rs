//! A client of `grpc.health.v1.Health/Watch`, as a load balancer uses it.

use futures_util::FutureExt as _;
use tokio::time::timeout;
use tonic::Streaming;
use tonic_health::pb::health_check_response::ServingStatus::{self, Serving};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::support::harness::{PATIENCE, TestServer};

/// An open watch of the health of the whole server.
pub struct HealthWatch {
    changes: Streaming<HealthCheckResponse>,
    status: ServingStatus,
}

impl HealthWatch {
    /// Starts a watch of a server that is serving.
    pub async fn start(server: &TestServer) -> Self {
        let mut health = HealthClient::new(server.channel());
        let watch = health.watch(HealthCheckRequest::default()).await.unwrap();
        let mut health = Self {
            changes: watch.into_inner(),
            status: ServingStatus::Unknown,
        };
        health.expect_next(Serving).await;
        health
    }

    /// Waits until the server reports this status. Reports that have already arrived count as old, and other
    /// statuses may come first, since a stalled machine can cause additional changes.
    pub async fn wait_for(&mut self, wanted: ServingStatus) {
        while let Some(change) = self.changes.message().now_or_never() {
            self.status = change.unwrap().unwrap().status();
        }
        let wait = async {
            while self.status != wanted {
                self.status = self.next().await;
            }
        };
        let reached = timeout(PATIENCE, wait).await;
        reached.unwrap_or_else(|_| panic!("health did not become {wanted:?} within {PATIENCE:?}"));
    }

    /// Waits for the next report, which must be this status.
    pub async fn expect_next(&mut self, wanted: ServingStatus) {
        let change = timeout(PATIENCE, self.next()).await;
        self.status =
            change.unwrap_or_else(|_| panic!("health did not become {wanted:?} within {PATIENCE:?}"));
        assert_eq!(self.status, wanted);
    }

    async fn next(&mut self) -> ServingStatus {
        self.changes.message().await.unwrap().unwrap().status()
    }
}
