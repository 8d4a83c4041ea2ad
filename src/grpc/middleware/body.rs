//! A reply body that another future can end with an error.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::Status;

use crate::grpc::status::ApiError;

/// The error of a reply body.
pub(in crate::grpc) type BoxError = Box<dyn std::error::Error + Send + Sync>;

pin_project! {
    /// A reply body that ends with an error once a future resolves to it, and with INTERNAL on a panic.
    #[derive(Default)]
    pub struct AbortableBody<B> {
        #[pin]
        inner: B,
        abort: Option<BoxFuture<'static, ApiError>>,
        ended: bool,
    }
}

impl<B> AbortableBody<B> {
    /// Creates a body that no future ends.
    pub(in crate::grpc) fn new(inner: B) -> Self {
        Self {
            inner,
            abort: None,
            ended: false,
        }
    }

    /// Creates a body that ends with the error to which `abort` resolves, as soon as it does.
    pub(in crate::grpc) fn abort_on(
        inner: B,
        abort: impl Future<Output = ApiError> + Send + 'static,
    ) -> Self {
        Self {
            inner,
            abort: Some(Box::pin(abort)),
            ended: false,
        }
    }
}

impl<B> Body for AbortableBody<B>
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
        if let Some(abort) = this.abort
            && let Poll::Ready(error) = abort.as_mut().poll(cx)
        {
            *this.ended = true;
            return Poll::Ready(Some(last_frame(error)));
        }
        // Unwind safe, because a body that panicked is not polled again.
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

/// Returns the trailers that end a started reply with this error.
fn last_frame<D>(error: ApiError) -> Result<Frame<D>, BoxError> {
    let mut trailers = HeaderMap::new();
    Status::from(error).add_header(&mut trailers)?;
    Ok(Frame::trailers(trailers))
}
