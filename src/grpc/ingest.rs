//! The reply stream of `IngestEvents`, which also reads the requests of the call.
//!
//! Each poll for a reply first receives what the client has sent, up to a window of unanswered items, and then
//! returns the result of the oldest item once it is committed. The stream has no task and no channel, so it
//! does not read from a client that does not read its replies, and a client that disconnects withdraws the
//! items whose flush has not started.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, Stream};
use prost::Message as _;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::{Status, Streaming};
use tonic_types::pb as rpc;

use super::context::Context;
use super::status::{ApiError, item_status, translate};
use super::{convert, pb};
use crate::domain::access::SpiritScope;
use crate::domain::event::NewEvent;
use crate::domain::refusal::Refusal;
use crate::store::{Queued, StoreError};
use pb::ingest_events_response::Result as ItemResult;

/// Bytes of unanswered items at which a stream stops reading. The last item read may exceed them.
const WINDOW_BYTES: usize = 4 * 1024 * 1024;

/// Replies of an ingest stream.
pub struct IngestStream {
    requests: Streaming<pb::IngestEventsRequest>,
    /// The spirits that the caller may see.
    scope: SpiritScope,
    context: Context,
    /// Unanswered items, oldest first.
    window: VecDeque<Unanswered>,
    window_bytes: usize,
    /// The newest item, while it waits for capacity in the write queue.
    enqueuing: Option<Enqueuing>,
    /// The result of the stream after its last reply; set once the stream stops reading.
    end: Option<Result<(), Status>>,
    shutdown: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// An item that waits for capacity in the write queue.
struct Enqueuing {
    request_id: String,
    bytes: usize,
    queued: BoxFuture<'static, Result<Queued, StoreError>>,
}

/// An item without a reply.
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
            enqueuing: None,
            end: None,
            shutdown: Box::pin(context.shutdown.clone().cancelled_owned()),
            context,
        }
    }

    /// Receives items until none has arrived, the window is full, or the write queue has no capacity.
    fn poll_requests(&mut self, cx: &mut TaskContext<'_>) {
        if self.end.is_none() && self.shutdown.as_mut().poll(cx).is_ready() {
            self.end = Some(Err(ApiError::ShuttingDown.into()));
        }
        while self.poll_enqueue(cx).is_ready() && self.end.is_none() && self.has_capacity() {
            match Pin::new(&mut self.requests).poll_next(cx) {
                Poll::Pending => return,
                Poll::Ready(Some(Ok(request))) => self.receive(request),
                Poll::Ready(Some(Err(status))) => self.end = Some(Err(self.translated(status))),
                Poll::Ready(None) => self.end = Some(Ok(())),
            }
        }
    }

    /// Moves the newest item into the window once it is queued. Ready if no item waits for capacity.
    fn poll_enqueue(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        let Some(enqueuing) = &mut self.enqueuing else {
            return Poll::Ready(());
        };
        let queued = ready!(enqueuing.queued.poll_unpin(cx));
        if let Some(Enqueuing {
            request_id, bytes, ..
        }) = self.enqueuing.take()
        {
            let state = match queued {
                Ok(queued) => State::Queued(queued),
                Err(error) => State::Refused(item_status(error)),
            };
            self.push(request_id, bytes, state);
        }
        Poll::Ready(())
    }

    fn has_capacity(&self) -> bool {
        self.window.len() < self.context.ingest_window && self.window_bytes < WINDOW_BYTES
    }

    fn receive(&mut self, request: pb::IngestEventsRequest) {
        let bytes = request.encoded_len();
        let convert::IngestItem { request_id, event } = convert::ingest(request, &self.context.limits);
        match event
            .map_err(Refusal::from)
            .and_then(|event| self.check_scope(event))
        {
            Ok(event) => self.enqueue(request_id, bytes, event),
            Err(refusal) => self.push(request_id, bytes, State::Refused(item_status(refusal.into()))),
        }
    }

    fn check_scope(&self, event: NewEvent) -> Result<NewEvent, Refusal> {
        self.scope.check(event.spirit_id)?;
        Ok(event)
    }

    fn enqueue(&mut self, request_id: String, bytes: usize, event: NewEvent) {
        let store = self.context.store.clone();
        self.enqueuing = Some(Enqueuing {
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

    /// Converts an error of receiving a request to the form of this service's errors.
    fn translated(&self, status: Status) -> Status {
        translate(&status, self.context.message_bytes_max).unwrap_or(status)
    }

    /// Returns the end of a stream that has no unanswered items; pending while the stream still reads.
    fn poll_end(&mut self) -> Poll<Option<Result<pb::IngestEventsResponse, Status>>> {
        if self.enqueuing.is_some() {
            return Poll::Pending;
        }
        match self.end.take() {
            None => Poll::Pending,
            Some(end) => {
                self.end = Some(Ok(()));
                Poll::Ready(end.err().map(Err))
            }
        }
    }
}

impl Stream for IngestStream {
    type Item = Result<pb::IngestEventsResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        this.poll_requests(cx);
        let Some(oldest) = this.window.front_mut() else {
            return this.poll_end();
        };
        let result = match &mut oldest.state {
            State::Refused(error) => ItemResult::Error(std::mem::take(error)),
            State::Queued(queued) => match ready!(queued.poll_unpin(cx)) {
                Ok(created) => ItemResult::Receipt(convert::receipt(&created)),
                Err(error) => ItemResult::Error(item_status(error)),
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
