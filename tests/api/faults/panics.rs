//! A call that panics is answered with INTERNAL; other calls on its connection continue.

use std::pin::Pin;

use elephantasm_events::grpc::PanicLayer;
use futures_util::stream::{self, Stream, StreamExt as _};
use tokio::net::TcpListener;
use tokio::task::yield_now;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus::Serving;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::support::builders::refused;
use crate::support::harness::connect;

/// A health service that panics on requests for the service `panic`: `check` at once, `watch` after one item.
struct Panicking;

type StatusStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Health for Panicking {
    type WatchStream = StatusStream;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        assert!(request.into_inner().service != "panic", "a secret of {}", "Ada");
        Ok(Response::new(serving()))
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<StatusStream>, Status> {
        let panics = request.into_inner().service == "panic";
        let items = stream::iter(0..3).then(move |n| async move {
            yield_now().await; // items that are ready at once would be sent together
            assert!(!(panics && n == 1), "in a stream");
            Ok(serving())
        });
        Ok(Response::new(items.boxed()))
    }
}

fn serving() -> HealthCheckResponse {
    HealthCheckResponse {
        status: Serving.into(),
    }
}

fn check_request(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.to_owned(),
    }
}

#[tokio::test]
async fn a_panic_ends_only_its_own_call() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(
        Server::builder()
            .layer(PanicLayer)
            .add_service(HealthServer::new(Panicking))
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
    let mut client = HealthClient::new(connect(addr).await);
    let mut other_watch = client.watch(check_request("")).await.unwrap().into_inner();
    for _ in 0..3 {
        let status = refused(
            client.check(check_request("panic")).await,
            Code::Internal,
            "INTERNAL",
        );
        assert!(!status.message().contains("Ada"), "{status:?}");
        let mut stream = client.watch(check_request("panic")).await.unwrap().into_inner();
        stream.message().await.unwrap().unwrap();
        refused(stream.message().await, Code::Internal, "INTERNAL");
        client.check(check_request("")).await.unwrap();
        other_watch.message().await.unwrap().unwrap();
    }
    assert!(other_watch.message().await.unwrap().is_none());
}
