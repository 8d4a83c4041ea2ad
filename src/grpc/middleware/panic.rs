//! A panic in a call is that call's end alone: INTERNAL, as every other bug.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use tonic::Status;
use tower::{Layer, Service};

use super::body::EndingBody;
use crate::grpc::status::ApiError;
use crate::panics::{Panicked, caught};

/// Answers INTERNAL where a call or the stream that it answers with panics.
#[derive(Clone, Copy, Debug)]
pub struct PanicLayer;

/// The service that the layer makes.
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

// What has panicked is not used again: a call's future is dropped, its body ends, and the service behind is
// cloned for each connection and holds nothing that changes.
impl<S, I, O> Service<Request<I>> for PanicService<S>
where
    S: Service<Request<I>, Response = Response<O>>,
    S::Future: Send + 'static,
    O: Default,
{
    type Response = Response<EndingBody<O>>;
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
                Ok(response) => Ok(response?.map(EndingBody::unlimited)),
                Err(Panicked) => Ok(Status::from(ApiError::Panicked).into_http()),
            }
        })
    }
}
