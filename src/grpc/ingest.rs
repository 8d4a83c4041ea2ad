//! The body of an ingest stream's replies, which drives the whole stream.
//!
//! Each time a reply is wanted it takes in what the client has sent, up to a window of unanswered
//! items, and gives the answer of the oldest one once that is committed. There is no task and no
//! channel: a client that does not read its replies is not read from either, and one that goes away
//! takes with it the items that no flush has taken up.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, Stream};
use prost::Message as _;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::{Status, Streaming};
use tonic_types::pb as rpc;

use super::status::{ApiError, translate};
use super::{Context, convert, pb};
use crate::domain::access::SpiritScope;
use crate::domain::event::NewEvent;
use crate::store::{Queued, StoreError};
use pb::ingest_events_response::Result as Item;

/// Bytes of unanswered items that one stream may have; one item may always be.
const WINDOW_BYTES: usize = 4 * 1024 * 1024;

/// Replies of an ingest stream.
pub struct IngestStream {
    requests: Streaming<pb::IngestEventsRequest>,
    /// The spirits that its caller knows of.
    scope: SpiritScope,
    context: Context,
    /// Unanswered items, oldest first.
    window: VecDeque<Unanswered>,
    window_bytes: usize,
    /// The newest item, while it waits for room in the queue.
    entering: Option<Entering>,
    /// Set when nothing more is read: how the stream ends once everything is answered.
    end: Option<Result<(), Status>>,
    shutdown: Pin<Box<WaitForCancellationFutureOwned>>,
}

struct Entering {
    request_id: String,
    bytes: usize,
    queued: BoxFuture<'static, Result<Queued, StoreError>>,
}

struct Unanswered {
    request_id: String,
    bytes: usize,
    state: State,
}

enum State {
    Refused(rpc::Status),
    Queued(Queued),
}

impl IngestStream {
    pub(super) fn new(
        requests: Streaming<pb::IngestEventsRequest>,
        scope: SpiritScope,
        context: Context,
    ) -> Self {
        Self {
            requests,
            scope,
            window: VecDeque::new(),
            window_bytes: 0,
            entering: None,
            end: None,
            shutdown: Box::pin(context.shutdown.clone().cancelled_owned()),
            context,
        }
    }

    /// Takes in items until none is there, the window is full, or the queue has no room.
    fn take_in(&mut self, cx: &mut TaskContext<'_>) {
        if self.end.is_none() && self.shutdown.as_mut().poll(cx).is_ready() {
            self.end = Some(Err(ApiError::ShuttingDown.into()));
        }
        while self.poll_enter(cx).is_ready() && self.end.is_none() && self.has_room() {
            match Pin::new(&mut self.requests).poll_next(cx) {
                Poll::Pending => return,
                Poll::Ready(Some(Ok(request))) => self.receive(request),
                Poll::Ready(Some(Err(status))) => self.end = Some(Err(self.broken(status))),
                Poll::Ready(None) => self.end = Some(Ok(())),
            }
        }
    }

    /// Moves the entering item into the window; ready when none is left entering.
    fn poll_enter(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        let Some(entering) = &mut self.entering else {
            return Poll::Ready(());
        };
        let queued = ready!(entering.queued.poll_unpin(cx));
        if let Some(Entering {
            request_id, bytes, ..
        }) = self.entering.take()
        {
            let state = match queued {
                Ok(queued) => State::Queued(queued),
                Err(error) => State::Refused(ApiError::from(error).into_item()),
            };
            self.push(request_id, bytes, state);
        }
        Poll::Ready(())
    }

    fn has_room(&self) -> bool {
        self.window.len() < self.context.ingest_window && self.window_bytes < WINDOW_BYTES
    }

    fn receive(&mut self, request: pb::IngestEventsRequest) {
        let bytes = request.encoded_len();
        let convert::IngestItem { request_id, event } = convert::ingest(request, &self.context.limits);
        let known = event.map_err(ApiError::from).and_then(|event| {
            self.scope.check(event.spirit_id)?;
            Ok(event)
        });
        match known {
            Ok(event) => self.enter(request_id, bytes, event),
            Err(error) => self.push(request_id, bytes, State::Refused(error.into_item())),
        }
    }

    fn enter(&mut self, request_id: String, bytes: usize, event: NewEvent) {
        let store = self.context.store.clone();
        self.entering = Some(Entering {
            request_id,
            bytes,
            queued: Box::pin(async move { store.write.enqueue(event).await }),
        });
    }

    fn push(&mut self, request_id: String, bytes: usize, state: State) {
        self.window_bytes += bytes;
        self.window.push_back(Unanswered {
            request_id,
            bytes,
            state,
        });
    }

    /// Why the bytes that came are no item.
    fn broken(&self, status: Status) -> Status {
        translate(&status, self.context.message_bytes_max).unwrap_or(status)
    }
}

impl Stream for IngestStream {
    type Item = Result<pb::IngestEventsResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        this.take_in(cx);
        let Some(oldest) = this.window.front_mut() else {
            if this.entering.is_some() {
                return Poll::Pending;
            }
            return match this.end.take() {
                None => Poll::Pending,
                Some(end) => {
                    this.end = Some(Ok(()));
                    Poll::Ready(end.err().map(Err))
                }
            };
        };
        let result = match &mut oldest.state {
            State::Refused(error) => Item::Error(std::mem::take(error)),
            State::Queued(queued) => match ready!(queued.poll_unpin(cx)) {
                Ok(created) => Item::Receipt(convert::receipt(&created)),
                Err(error) => Item::Error(ApiError::from(error).into_item()),
            },
        };
        let request_id = std::mem::take(&mut oldest.request_id);
        this.window_bytes -= oldest.bytes;
        this.window.pop_front();
        Poll::Ready(Some(Ok(pb::IngestEventsResponse {
            request_id,
            result: Some(result),
        })))
    }
}
