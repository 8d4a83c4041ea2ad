//! Health as a balancer sees it: told by the server as it changes.

use futures_util::FutureExt as _;
use tokio::time::timeout;
use tonic::Streaming;
use tonic_health::pb::health_check_response::ServingStatus::{self, Serving};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::support::harness::{PATIENCE, TestServer};

/// An open Health/Watch of a whole server.
pub struct Watched {
    changes: Streaming<HealthCheckResponse>,
    status: ServingStatus,
}

impl Watched {
    /// From now on, of a server that serves.
    pub async fn start(server: &TestServer) -> Self {
        let mut health = HealthClient::new(server.channel());
        let watch = health.watch(HealthCheckRequest::default()).await.unwrap();
        let mut watched = Self {
            changes: watch.into_inner(),
            status: ServingStatus::Unknown,
        };
        watched.next_turns(Serving).await;
        watched
    }

    /// Waits until this is what the server says. A machine that stalls may make it say something else before, which
    /// is not meant here; what has come by now is old.
    pub async fn turns(&mut self, wanted: ServingStatus) {
        while let Some(change) = self.changes.message().now_or_never() {
            self.status = change.unwrap().unwrap().status();
        }
        let waiting = async {
            while self.status != wanted {
                self.status = self.next().await;
            }
        };
        let turned = timeout(PATIENCE, waiting).await;
        turned.unwrap_or_else(|_| panic!("health never turns {wanted:?}"));
    }

    /// Waits for the next change, which must be to this.
    pub async fn next_turns(&mut self, wanted: ServingStatus) {
        let change = timeout(PATIENCE, self.next()).await;
        self.status = change.unwrap_or_else(|_| panic!("health never turns {wanted:?}"));
        assert_eq!(self.status, wanted);
    }

    async fn next(&mut self) -> ServingStatus {
        self.changes.message().await.unwrap().unwrap().status()
    }
}
