//! Ends a call that panics with INTERNAL, so that a panic affects no other call.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use tonic::Status;
use tower::{Layer, Service};

use super::body::AbortableBody;
use crate::grpc::status::ApiError;
use crate::panics::{Panicked, caught};

/// Ends a call with INTERNAL if it or its reply stream panics.
#[derive(Clone, Copy, Debug)]
pub struct PanicLayer;

/// The service of a [`PanicLayer`].
#[derive(Clone, Debug)]
pub struct PanicService<S> {
    inner: S,
}

impl<S> Layer<S> for PanicLayer {
    type Service = PanicService<S>;

    fn layer(&self, inner: S) -> PanicService<S> {
        PanicService { inner }
    }
}

// Unwind safe: nothing that panicked is used again. The call's future is dropped, its body ends, and the inner
// service is cloned for each connection and has no mutable state.
impl<S, I, O> Service<Request<I>> for PanicService<S>
where
    S: Service<Request<I>, Response = Response<O>>,
    S::Future: Send + 'static,
    O: Default,
{
    type Response = Response<AbortableBody<O>>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<I>) -> Self::Future {
        let Ok(call) = catch_unwind(AssertUnwindSafe(|| self.inner.call(request))) else {
            return Box::pin(async { Ok(Status::from(ApiError::Panicked).into_http()) });
        };
        Box::pin(async {
            match caught(call).await {
                Ok(response) => Ok(response?.map(AbortableBody::new)),
                Err(Panicked) => Ok(Status::from(ApiError::Panicked).into_http()),
            }
        })
    }
}
