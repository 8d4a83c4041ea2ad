//! Bounds the streams that need no API key: watches of the health, and reflection. They have no end of their
//! own, so without a bound a caller without a key could take any amount of memory.
//!
//! Each connection may open one such stream, because clients that check the health open one per connection. The
//! further streams of all connections together are bounded.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use pin_project_lite::pin_project;
use tonic::Status;
use tower::{Layer, Service};

use super::methods;
use super::reply_budget::ConnectionReplies;
use crate::grpc::status::ApiError;

/// Open streams of a connection.
const CONNECTION_STREAMS_MAX: usize = 8;
/// Open streams of all connections, without the first one of each.
const FURTHER_STREAMS_MAX: usize = 1_000;
/// Path prefix of this service's RPCs, which need an API key once there is one.
const RPC_PREFIX: &str = "/elephantasm.";

/// Answers RESOURCE_EXHAUSTED to streams beyond the limits.
#[derive(Clone, Default)]
pub struct KeylessStreamLayer(Arc<Mutex<OpenStreams>>);

/// The service of a [`KeylessStreamLayer`].
#[derive(Clone)]
pub struct KeylessStreamService<S> {
    inner: S,
    open: Arc<Mutex<OpenStreams>>,
}

impl<S> Layer<S> for KeylessStreamLayer {
    type Service = KeylessStreamService<S>;

    fn layer(&self, inner: S) -> KeylessStreamService<S> {
        KeylessStreamService {
            inner,
            open: Arc::clone(&self.0),
        }
    }
}

impl<S, I, O> Service<Request<I>> for KeylessStreamService<S>
where
    S: Service<Request<I>, Response = Response<O>>,
    S::Future: Send + 'static,
    O: Default,
{
    type Response = Response<CountedBody<O>>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<I>) -> Self::Future {
        let is_counted = is_keyless_stream(request.uri().path());
        let permit = is_counted.then(|| StreamPermit::take(&self.open, request.extensions().get()));
        if matches!(permit, Some(None)) {
            let status = Status::from(ApiError::TooManyKeylessStreams);
            return Box::pin(async move { Ok(status.into_http()) });
        }
        let permit = permit.flatten();
        let call = self.inner.call(request);
        Box::pin(async move {
            let response = call.await?;
            Ok(response.map(|inner| CountedBody { inner, permit }))
        })
    }
}

fn is_keyless_stream(path: &str) -> bool {
    !path.starts_with(RPC_PREFIX) && methods::exists(path) && !methods::is_unary(path)
}

/// The open streams of a server.
#[derive(Default)]
struct OpenStreams {
    /// Numbers of streams, at least 1, by the address of the connection's account.
    by_connection: HashMap<usize, usize>,
    /// Open streams without the first one of each connection.
    further: usize,
}

/// The place of one open stream; given back when it is dropped.
struct StreamPermit {
    open: Arc<Mutex<OpenStreams>>,
    /// Keeps its address from being reused.
    connection: Option<Arc<ConnectionReplies>>,
}

impl StreamPermit {
    /// Returns `None` if there are too many streams.
    fn take(open: &Arc<Mutex<OpenStreams>>, connection: Option<&Arc<ConnectionReplies>>) -> Option<Self> {
        let is_added = open.lock().add(address(connection));
        is_added.then(|| Self {
            open: Arc::clone(open),
            connection: connection.cloned(),
        })
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        self.open.lock().remove(address(self.connection.as_ref()));
    }
}

fn address(connection: Option<&Arc<ConnectionReplies>>) -> usize {
    connection.map_or(0, |connection| Arc::as_ptr(connection).addr())
}

impl OpenStreams {
    /// Counts a stream unless there are too many.
    fn add(&mut self, connection: usize) -> bool {
        let count = self.by_connection.get(&connection).copied().unwrap_or(0);
        let is_further = count > 0;
        if count >= CONNECTION_STREAMS_MAX || (is_further && self.further >= FURTHER_STREAMS_MAX) {
            return false;
        }
        self.by_connection.insert(connection, count + 1);
        self.further += usize::from(is_further);
        true
    }

    fn remove(&mut self, connection: usize) {
        match self.by_connection.get_mut(&connection) {
            Some(count) if *count > 1 => {
                *count -= 1;
                self.further -= 1;
            }
            _ => drop(self.by_connection.remove(&connection)),
        }
    }
}

pin_project! {
    /// A body that counts as an open stream until it is dropped.
    #[derive(Default)]
    pub struct CountedBody<B> {
        #[pin]
        inner: B,
        permit: Option<StreamPermit>,
    }
}

impl<B: Body> Body for CountedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().inner.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
