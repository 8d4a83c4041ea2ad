//! Serves connections of HTTP/1.1, for Connect and gRPC-Web. tonic serves those of HTTP/2.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::transport::server::Connected as _;
use tower::{Service, ServiceExt as _};

use super::HEADER_BYTES_MAX;
use super::listener::Connection;
use crate::gateway::BoxError;

/// Maximum size of a connection's read and write buffers: a request's headers and some more, so that a pipelining client
/// cannot take much memory.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// Serves connections of HTTP/1.1 with a service.
pub(super) struct Http1<S> {
    /// The same service as that of HTTP/2.
    pub(super) service: S,
    /// Time that a connection may wait for the headers of its next request.
    pub(super) idle: Duration,
    /// Cancelled when the server drains: each connection is closed after its current reply.
    pub(super) shutdown: CancellationToken,
    /// The open connections.
    pub(super) connections: TaskTracker,
}

impl<S, B> Http1<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// Serves a connection in a task of its own.
    pub(super) fn serve(&self, connection: Connection) {
        let replies = connection.connect_info();
        let service = self
            .service
            .clone()
            .map_request(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(Arc::clone(&replies));
                request.map(Body::new)
            });
        let served = Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.idle)
            .max_header_size(HEADER_BYTES_MAX as usize)
            .max_buf_size(BUFFER_BYTES_MAX)
            .serve_connection(TokioIo::new(connection), TowerToHyperService::new(service));
        let shutdown = self.shutdown.clone();
        self.connections.spawn(async move {
            let mut served = pin!(served);
            let ended = tokio::select! {
                ended = &mut served => ended,
                () = shutdown.cancelled() => {
                    served.as_mut().graceful_shutdown();
                    served.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "an HTTP/1.1 connection failed");
            }
        });
    }
}
