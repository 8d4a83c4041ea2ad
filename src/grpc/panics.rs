//! A panic in a call is that call's end alone: INTERNAL, as every other bug.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::Status;
use tower::{Layer, Service};

use super::ending_body::{BoxError, last_frame};
use super::status::ApiError;

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

// What has panicked is not used again: a call's future is dropped, a stream ends, and the service behind is
// cloned for each connection and holds nothing that changes.
impl<S, I, O> Service<Request<I>> for PanicService<S>
where
    S: Service<Request<I>, Response = Response<O>>,
    S::Future: Send + 'static,
    O: Default,
{
    type Response = Response<PanicBody<O>>;
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
            match AssertUnwindSafe(call).catch_unwind().await {
                Ok(response) => Ok(response?.map(|inner| PanicBody { inner, ended: false })),
                Err(_) => Ok(Status::from(ApiError::Panicked).into_http()),
            }
        })
    }
}

pin_project! {
    /// A reply's body that ends with INTERNAL when it panics.
    #[derive(Default)]
    pub struct PanicBody<B> {
        #[pin]
        inner: B,
        ended: bool,
    }
}

impl<B> Body for PanicBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let this = self.project();
        if *this.ended {
            return Poll::Ready(None);
        }
        let Ok(polled) = catch_unwind(AssertUnwindSafe(|| this.inner.poll_frame(cx))) else {
            *this.ended = true;
            return Poll::Ready(Some(last_frame(ApiError::Panicked)));
        };
        polled.map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
