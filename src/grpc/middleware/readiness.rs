//! Refuses calls until the database is migrated, and once the server drains.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tower::{Layer, Service};

use crate::grpc::status::ApiError;

/// Path prefix of the RPCs that are refused. Health and reflection are always served.
const RPC_PREFIX: &str = "/elephantasm.";

/// Refuses calls with UNAVAILABLE until the database is migrated, and once the server drains.
#[derive(Clone, Debug)]
pub struct ReadyLayer {
    /// Set once the database is migrated.
    pub ready: Arc<AtomicBool>,
    /// Cancelled when the server drains, because a client that ignores HTTP/2's GOAWAY keeps sending calls.
    pub shutdown: CancellationToken,
}

/// The service of a [`ReadyLayer`].
#[derive(Clone, Debug)]
pub struct ReadyService<S> {
    inner: S,
    layer: ReadyLayer,
}

impl<S> Layer<S> for ReadyLayer {
    type Service = ReadyService<S>;

    fn layer(&self, inner: S) -> ReadyService<S> {
        ReadyService {
            inner,
            layer: self.clone(),
        }
    }
}

impl ReadyLayer {
    fn check(&self, path: &str) -> Result<(), ApiError> {
        if !path.starts_with(RPC_PREFIX) {
            return Ok(());
        }
        if self.shutdown.is_cancelled() {
            return Err(ApiError::ShuttingDown);
        }
        if !self.ready.load(Ordering::Acquire) {
            return Err(ApiError::Starting);
        }
        Ok(())
    }
}

impl<S, I, O> Service<Request<I>> for ReadyService<S>
where
    S: Service<Request<I>, Response = Response<O>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    O: Default + Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<I>) -> Self::Future {
        match self.layer.check(request.uri().path()) {
            Ok(()) => Box::pin(self.inner.call(request)),
            Err(error) => Box::pin(async { Ok(Status::from(error).into_http()) }),
        }
    }
}
