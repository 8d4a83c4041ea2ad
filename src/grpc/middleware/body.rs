//! A reply's body that something other than its service can end, its own panic too.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::Status;

use crate::grpc::status::ApiError;

pub(in crate::grpc) type BoxError = Box<dyn std::error::Error + Send + Sync>;

pin_project! {
    /// A reply's body that ends with an error as soon as there is one, and with INTERNAL when it panics.
    #[derive(Default)]
    pub struct EndingBody<B> {
        #[pin]
        inner: B,
        end: Option<BoxFuture<'static, ApiError>>,
        ended: bool,
    }
}

impl<B> EndingBody<B> {
    /// Ends by itself alone.
    pub(in crate::grpc) fn unlimited(inner: B) -> Self {
        Self {
            inner,
            end: None,
            ended: false,
        }
    }

    /// Ends with the error that this gives.
    pub(in crate::grpc) fn until(inner: B, end: impl Future<Output = ApiError> + Send + 'static) -> Self {
        Self {
            inner,
            end: Some(Box::pin(end)),
            ended: false,
        }
    }
}

impl<B> Body for EndingBody<B>
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
        if let Some(end) = this.end
            && let Poll::Ready(error) = end.as_mut().poll(cx)
        {
            *this.ended = true;
            return Poll::Ready(Some(last_frame(error)));
        }
        // What has panicked is not used again.
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

/// The end of a reply that has begun already.
fn last_frame<D>(error: ApiError) -> Result<Frame<D>, BoxError> {
    let mut trailers = HeaderMap::new();
    Status::from(error).add_header(&mut trailers)?;
    Ok(Frame::trailers(trailers))
}
