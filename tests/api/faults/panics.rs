//! A call that panics is answered INTERNAL, and the others on its connection go on.

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

/// Panics when it is asked about `panic`; its stream does so after one item.
struct Fragile;

type Watch = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Health for Fragile {
    type WatchStream = Watch;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        assert!(request.into_inner().service != "panic", "a secret of {}", "Ada");
        Ok(Response::new(serving()))
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Watch>, Status> {
        let fragile = request.into_inner().service == "panic";
        let items = stream::iter(0..3).then(move |n| async move {
            yield_now().await; // what is ready together would go together
            assert!(!(fragile && n == 1), "in a stream");
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

fn about(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.to_owned(),
    }
}

#[tokio::test]
async fn a_panic_is_the_end_of_its_call_alone() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(
        Server::builder()
            .layer(PanicLayer)
            .add_service(HealthServer::new(Fragile))
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
    let mut client = HealthClient::new(connect(addr).await);
    let mut neighbour = client.watch(about("")).await.unwrap().into_inner();
    for _ in 0..3 {
        let status = refused(client.check(about("panic")).await, Code::Internal, "INTERNAL");
        assert!(!status.message().contains("Ada"), "{status:?}");
        let mut stream = client.watch(about("panic")).await.unwrap().into_inner();
        stream.message().await.unwrap().unwrap();
        refused(stream.message().await, Code::Internal, "INTERNAL");
        client.check(about("")).await.unwrap();
        neighbour.message().await.unwrap().unwrap();
    }
    assert!(neighbour.message().await.unwrap().is_none());
}
