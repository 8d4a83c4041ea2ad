//! Health as a balancer sees it: told by the server as it changes.

use tokio::time::timeout;
use tonic::Streaming;
use tonic_health::pb::health_check_response::ServingStatus::{self, Serving};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::harness::{PATIENCE, TestServer};

/// An open Health/Watch of a whole server.
pub struct Watched(Streaming<HealthCheckResponse>);

impl Watched {
    /// From now on, of a server that serves.
    pub async fn start(server: &TestServer) -> Self {
        let mut health = HealthClient::new(server.channel());
        let watch = health.watch(HealthCheckRequest::default()).await.unwrap();
        let mut watched = Self(watch.into_inner());
        watched.turns(Serving).await;
        watched
    }

    /// Waits for the next change, which must be to this.
    pub async fn turns(&mut self, wanted: ServingStatus) {
        let change = timeout(PATIENCE, self.0.message()).await;
        let change = change.unwrap_or_else(|_| panic!("health never turns {wanted:?}"));
        assert_eq!(change.unwrap().unwrap().status(), wanted);
    }
}
