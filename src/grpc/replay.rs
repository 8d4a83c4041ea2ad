//! The body of a replay: events of pages, each with the cursor to resume after it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::Stream;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;

use super::status::ApiError;
use super::{convert, pb};
use crate::domain::cursor::{ReplayPlace, encode};
use crate::domain::event::Event;
use crate::domain::filter::QueryHash;
use crate::store::{ReplayPage, StoreError};

/// Messages of a replay.
pub struct ReplayStream {
    pages: mpsc::Receiver<Result<ReplayPage, StoreError>>,
    events: std::vec::IntoIter<Event>,
    bound: i64,
    hash: QueryHash,
    last: Option<ReplayPlace>,
    shutdown: Pin<Box<WaitForCancellationFutureOwned>>,
    ended: bool,
}

impl ReplayStream {
    pub(super) fn new(
        pages: mpsc::Receiver<Result<ReplayPage, StoreError>>,
        hash: QueryHash,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            pages,
            events: Vec::new().into_iter(),
            bound: 0,
            hash,
            last: None,
            shutdown: Box::pin(shutdown.cancelled_owned()),
            ended: false,
        }
    }

    fn item(&mut self, event: Event) -> pb::StreamSessionEventsResponse {
        let place = ReplayPlace {
            position: event.position(),
            bound: self.bound,
        };
        self.last = Some(place);
        pb::StreamSessionEventsResponse {
            cursor: encode(self.hash, &place),
            item: Some(pb::stream_session_events_response::Item::Event(convert::event(
                event,
            ))),
        }
    }

    /// The last message: an error with the cursor to resume after.
    fn end(&mut self, error: ApiError) -> Status {
        self.ended = true;
        let cursor = self.last.map(|place| encode(self.hash, &place));
        error.into_stream_status(cursor.as_deref())
    }
}

impl Stream for ReplayStream {
    type Item = Result<pb::StreamSessionEventsResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if self.shutdown.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(self.end(ApiError::ShuttingDown))));
        }
        loop {
            if let Some(event) = self.events.next() {
                return Poll::Ready(Some(Ok(self.item(event))));
            }
            match ready!(self.pages.poll_recv(cx)) {
                Some(Ok(page)) => {
                    self.events = page.events.into_iter();
                    self.bound = page.bound;
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(self.end(error.into())))),
                None => {
                    self.ended = true;
                    return Poll::Ready(None);
                }
            }
        }
    }
}
