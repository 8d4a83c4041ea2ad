//! The reply streams of `StreamSessionEvents` and `WatchEvents`. They turn pages of events into messages, each
//! with the position at which a client can resume.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use futures_util::Stream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;

use super::status::{ApiError, stream_status};
use super::{convert, pb};
use crate::domain::cursor::{Phase, SessionStreamPosition, encode};
use crate::domain::event::{Event, Position};
use crate::domain::filter::{QueryHash, start_of_year};
use crate::store::{LivePage, Pages, ReplayStart, StreamPage};
use pb::stream_session_events_response::Item as SessionItem;
use pb::watch_events_response::Item as WatchItem;

/// The reply stream of `StreamSessionEvents`.
pub type SessionStream = EventStream<SessionEncoder>;
/// The reply stream of `WatchEvents`.
pub type WatchStream = EventStream<WatchEncoder>;

/// Encodes the items of a stream as messages and tracks the position at which a client can resume.
pub trait StreamEncoder: Unpin {
    /// The message type of the stream.
    type Message;
    /// Encodes an event. `bound` is the highest sequence of the replay that the event belongs to, `None` for a
    /// live event.
    fn event(&mut self, event: Event, bound: Option<i64>) -> Self::Message;
    /// Encodes that every matching event up to the sequence `scanned` was sent.
    fn caught_up(&mut self, scanned: i64) -> Self::Message;
    /// Encodes a heartbeat; every event up to the sequence `scanned` was examined.
    fn heartbeat(&mut self, scanned: i64) -> Self::Message;
    /// Returns name and value of the error metadata from which a client can resume, if it can.
    fn resume(&self) -> Option<(&'static str, String)>;
}

/// A reply stream that encodes pages of events.
pub struct EventStream<E> {
    encoder: E,
    pages: Pages,
    events: PageEvents,
    shutdown: Pin<Box<WaitForCancellationFutureOwned>>,
    ended: bool,
}

/// The unsent events of a page.
enum PageEvents {
    Empty,
    /// Events of a replay, and the highest sequence of the replay.
    Replay(std::vec::IntoIter<Event>, i64),
    /// A live page and the index of the next event. Streams share live pages, so events are cloned.
    Live(Arc<LivePage>, usize),
}

impl PageEvents {
    /// Returns the next event and, unless it is a live event, the highest sequence of its replay.
    fn next(&mut self) -> Option<(Event, Option<i64>)> {
        match self {
            Self::Empty => None,
            Self::Replay(events, bound) => Some((events.next()?, Some(*bound))),
            Self::Live(page, next) => {
                let event = page.events.get(*next)?.clone();
                *next += 1;
                if *next == page.events.len() {
                    *self = Self::Empty; // releases the page before the stream waits for the next one
                }
                Some((event, None))
            }
        }
    }
}

impl<E: StreamEncoder> EventStream<E> {
    /// Creates a stream that ends with UNAVAILABLE once `shutdown` is cancelled.
    pub(super) fn new(encoder: E, pages: Pages, shutdown: CancellationToken) -> Self {
        Self {
            encoder,
            pages,
            events: PageEvents::Empty,
            shutdown: Box::pin(shutdown.cancelled_owned()),
            ended: false,
        }
    }

    /// Ends the stream with an error that carries the position at which a client can resume.
    fn end(&mut self, error: ApiError) -> Status {
        self.ended = true;
        stream_status(error, self.encoder.resume())
    }
}

impl<E: StreamEncoder> Stream for EventStream<E> {
    type Item = Result<E::Message, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if self.shutdown.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(self.end(ApiError::ShuttingDown))));
        }
        loop {
            let this = &mut *self;
            if let Some((event, bound)) = this.events.next() {
                this.pages.record_progress();
                return Poll::Ready(Some(Ok(this.encoder.event(event, bound))));
            }
            this.events = PageEvents::Empty;
            let message = match ready!(this.pages.poll_next(cx)) {
                Ok(StreamPage::Replay { events, bound }) => {
                    this.events = PageEvents::Replay(events.into_iter(), bound);
                    continue;
                }
                Ok(StreamPage::Live(page)) => {
                    this.events = PageEvents::Live(page, 0);
                    continue;
                }
                Ok(StreamPage::CaughtUp(scanned)) => this.encoder.caught_up(scanned),
                Ok(StreamPage::Heartbeat(scanned)) => this.encoder.heartbeat(scanned),
                Err(Ok(())) => {
                    this.ended = true;
                    return Poll::Ready(None);
                }
                Err(Err(error)) => return Poll::Ready(Some(Err(this.end(error.into())))),
            };
            this.pages.record_progress();
            return Poll::Ready(Some(Ok(message)));
        }
    }
}

/// Encodes messages of `StreamSessionEvents`, each with a cursor.
pub struct SessionEncoder {
    hash: QueryHash,
    /// The position of the last message; before the first message, the position to resume from, if any.
    last: Option<SessionStreamPosition>,
    /// A position before the first event that the stream may send.
    start: Position,
}

impl SessionEncoder {
    /// Creates the encoder of a replay with this query hash and start.
    pub(super) fn new(hash: QueryHash, start: ReplayStart) -> Self {
        let (last, occurred_at, sequence) = match start {
            ReplayStart::After(position) => (Some(position), start_of_year(1), 0),
            ReplayStart::AfterSequence(sequence) => (None, start_of_year(1), sequence),
            ReplayStart::FromTime(time) => (None, time, 0),
            ReplayStart::Beginning | ReplayStart::LastN(_) => (None, start_of_year(1), 0),
        };
        Self {
            hash,
            last,
            start: Position {
                occurred_at,
                sequence,
            },
        }
    }

    fn message(
        &mut self,
        position: SessionStreamPosition,
        item: SessionItem,
    ) -> pb::StreamSessionEventsResponse {
        self.last = Some(position);
        pb::StreamSessionEventsResponse {
            cursor: encode(self.hash, &position),
            item: Some(item),
        }
    }

    /// Returns the live position after the last event sent, with every event up to the sequence `scanned`
    /// examined.
    fn live_position(&self, scanned: i64) -> SessionStreamPosition {
        SessionStreamPosition {
            phase: Phase::Live,
            position: self.last.map_or(self.start, |last| last.position),
            bound: scanned,
        }
    }
}

impl StreamEncoder for SessionEncoder {
    type Message = pb::StreamSessionEventsResponse;

    fn event(&mut self, event: Event, bound: Option<i64>) -> Self::Message {
        let position = SessionStreamPosition {
            phase: bound.map_or(Phase::Live, |_| Phase::Replay),
            position: event.position(),
            bound: bound.unwrap_or(event.sequence),
        };
        self.message(position, SessionItem::Event(convert::event(event)))
    }

    fn caught_up(&mut self, scanned: i64) -> Self::Message {
        let position = self.live_position(scanned);
        self.message(position, SessionItem::CaughtUp(pb::CaughtUp {}))
    }

    fn heartbeat(&mut self, scanned: i64) -> Self::Message {
        let position = self.live_position(scanned);
        self.message(position, SessionItem::Heartbeat(heartbeat()))
    }

    fn resume(&self) -> Option<(&'static str, String)> {
        let last = self.last?;
        Some(("cursor", encode(self.hash, &last)))
    }
}

/// Encodes messages of `WatchEvents`, each with a sequence.
pub struct WatchEncoder {
    /// Every event up to this sequence was examined.
    sequence: i64,
}

impl WatchEncoder {
    /// Creates the encoder of a watch that starts after this sequence.
    pub(super) fn new(sequence: i64) -> Self {
        Self { sequence }
    }

    fn message(&mut self, sequence: i64, item: WatchItem) -> pb::WatchEventsResponse {
        self.sequence = sequence;
        pb::WatchEventsResponse {
            sequence,
            item: Some(item),
        }
    }
}

impl StreamEncoder for WatchEncoder {
    type Message = pb::WatchEventsResponse;

    fn event(&mut self, event: Event, _bound: Option<i64>) -> Self::Message {
        self.message(event.sequence, WatchItem::Event(convert::event(event)))
    }

    fn caught_up(&mut self, scanned: i64) -> Self::Message {
        self.message(scanned, WatchItem::CaughtUp(pb::CaughtUp {}))
    }

    fn heartbeat(&mut self, scanned: i64) -> Self::Message {
        self.message(scanned, WatchItem::Heartbeat(heartbeat()))
    }

    fn resume(&self) -> Option<(&'static str, String)> {
        Some(("sequence", self.sequence.to_string()))
    }
}

fn heartbeat() -> pb::Heartbeat {
    pb::Heartbeat {
        server_time: Some(SystemTime::now().into()),
    }
}
