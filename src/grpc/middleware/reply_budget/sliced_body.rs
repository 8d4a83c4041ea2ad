//! A reply body that passes its data on in slices.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::connection::ReplyInFlight;

/// Maximum bytes of a slice. HTTP/2 buffers at most one slice beyond its window.
pub(super) const SLICE_BYTES: usize = 16 * 1024;

pin_project! {
    /// A body that passes its data on in slices and returns the reply's budget with the last slice.
    pub struct SlicedBody<B: Body<Data = Bytes>> {
        #[pin]
        inner: B,
        rest: Bytes,
        // Set until the client has taken a charged reply.
        in_flight: Option<ReplyInFlight>,
        // Whether the charged reply has several slices.
        is_long: bool,
        pub(super) trailers: Option<HeaderMap>,
        pub(super) error: Option<B::Error>,
    }
}

impl<B: Body<Data = Bytes>> SlicedBody<B> {
    pub(super) fn new(inner: B) -> Self {
        Self {
            inner,
            rest: Bytes::new(),
            in_flight: None,
            is_long: false,
            trailers: None,
            error: None,
        }
    }

    /// Puts a charged message in front of the rest of the body.
    pub(super) fn start(&mut self, message: Bytes, in_flight: ReplyInFlight) {
        self.is_long = message.len() > SLICE_BYTES;
        self.rest = message;
        self.in_flight = Some(in_flight);
    }
}

impl<B: Body<Data = Bytes> + Default> Default for SlicedBody<B> {
    fn default() -> Self {
        Self::new(B::default())
    }
}

impl<B: Body<Data = Bytes>> Body for SlicedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        if let Some(error) = this.error.take() {
            return Poll::Ready(Some(Err(error)));
        }
        if this.rest.is_empty() {
            // HTTP/2 polls again once the client's window has taken the last slice.
            *this.in_flight = None;
            if let Some(trailers) = this.trailers.take() {
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
            match ready!(this.inner.poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => *this.rest = data,
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                other => return Poll::Ready(other),
            }
        }
        let mut slice = if this.rest.len() > SLICE_BYTES {
            this.rest.split_to(SLICE_BYTES)
        } else {
            std::mem::take(this.rest)
        };
        if let Some(in_flight) = this.in_flight {
            in_flight.record_progress();
            if *this.is_long {
                // A slice of a shared buffer would keep all of it in memory after the charge has ended.
                slice = Bytes::copy_from_slice(&slice);
            }
        }
        Poll::Ready(Some(Ok(Frame::data(slice))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.trailers.is_none() && self.error.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
