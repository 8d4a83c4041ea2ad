//! Serves connections of HTTP/1.1, for Connect and gRPC-Web. tonic serves those of HTTP/2.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::transport::server::Connected as _;
use tower::{Service, ServiceExt as _};

use super::HEADER_BYTES_MAX;
use super::listener::Connection;
use crate::gateway::BoxError;

/// Maximum size of a connection's read buffer and of its write buffer: the headers of a request and some more, so that
/// a client that pipelines requests cannot take much memory.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// Bytes of an unread request body that are still received, so that the client reads its reply.
const UNREAD_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Time in which they are received.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(5);

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
        let has_request = Arc::new(AtomicBool::new(false));
        let begun = Arc::clone(&has_request);
        let prepare = move |mut request: Request<Incoming>| {
            begun.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(Arc::clone(&replies));
            request.map(|body| Body::new(RequestBody { inner: Some(body) }))
        };
        let service = self.service.clone().map_request(prepare);
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
                    // For hyper, a connection that waits for its first request is not idle.
                    if !has_request.load(Ordering::Relaxed) {
                        return;
                    }
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

/// The body of a request. If it is dropped before its end, as the body of a refused call is, a task receives the rest:
/// otherwise the connection would be closed while the client is still sending, and many clients then report a broken
/// connection instead of the reply.
struct RequestBody {
    /// `None` when it is dropped.
    inner: Option<Incoming>,
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.inner {
            Some(inner) => Pin::new(inner).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map(Incoming::size_hint).unwrap_or_default()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Some(rest) = self.inner.take().filter(|body| !body.is_end_stream()) {
            tokio::spawn(timeout(UNREAD_TIMEOUT, receive(rest)));
        }
    }
}

/// Receives and discards a body until its end or the limit.
async fn receive(mut body: Incoming) {
    let mut left = UNREAD_BYTES_MAX;
    while let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let length = frame.data_ref().map_or(0, Bytes::len);
        match left.checked_sub(length) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}
