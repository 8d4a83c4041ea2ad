//! The bodies of long streams: items of pages, each with where to resume after it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use futures_util::Stream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;

use super::status::ApiError;
use super::{convert, pb};
use crate::domain::cursor::{Phase, ReplayPlace, encode};
use crate::domain::event::{Event, Position};
use crate::domain::filter::{QueryHash, start_of_year};
use crate::store::{LivePage, Pages, ReplayStart, StreamPage};
use pb::stream_session_events_response::Item as SessionItem;
use pb::watch_events_response::Item as WatchItem;

/// Messages of `StreamSessionEvents`.
pub type SessionStream = ItemStream<Session>;
/// Messages of `WatchEvents`.
pub type WatchStream = ItemStream<Watch>;

/// What tells the streams apart: their messages, and how they say where they are.
pub trait StreamEncoder: Unpin {
    /// A message of the stream.
    type Message;
    /// Of an event of a replay up to the bound, or, without one, of a live event.
    fn event(&mut self, event: Event, bound: Option<i64>) -> Self::Message;
    /// Everything up to this sequence was sent.
    fn caught_up(&mut self, scanned: i64) -> Self::Message;
    /// Nothing to send; everything up to this sequence was looked at.
    fn heartbeat(&mut self, scanned: i64) -> Self::Message;
    /// Where to resume, as an error's metadata says it: its name and value.
    fn resume(&self) -> Option<(&'static str, String)>;
}

/// The body of a long stream.
pub struct ItemStream<C> {
    course: C,
    pages: Pages,
    events: Events,
    shutdown: Pin<Box<WaitForCancellationFutureOwned>>,
    ended: bool,
}

/// The rest of a page.
enum Events {
    Replay(std::vec::IntoIter<Event>, i64),
    /// Streams share a live page; each takes copies.
    Live(Arc<LivePage>, usize),
}

impl Events {
    /// The next event, and the bound if it is of a replay.
    fn next(&mut self) -> Option<(Event, Option<i64>)> {
        match self {
            Self::Replay(events, bound) => Some((events.next()?, Some(*bound))),
            Self::Live(page, next) => {
                let event = page.events.get(*next)?.clone();
                *next += 1;
                Some((event, None))
            }
        }
    }
}

impl<C: StreamEncoder> ItemStream<C> {
    pub(super) fn new(course: C, pages: Pages, shutdown: CancellationToken) -> Self {
        Self {
            course,
            pages,
            events: Events::Replay(Vec::new().into_iter(), 0),
            shutdown: Box::pin(shutdown.cancelled_owned()),
            ended: false,
        }
    }

    /// The last message: an error that says where to resume.
    fn end(&mut self, error: ApiError) -> Status {
        self.ended = true;
        error.into_stream_status(self.course.resume())
    }
}

impl<C: StreamEncoder> Stream for ItemStream<C> {
    type Item = Result<C::Message, Status>;

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
                return Poll::Ready(Some(Ok(this.course.event(event, bound))));
            }
            let message = match ready!(this.pages.poll_next(cx)) {
                Ok(StreamPage::Replay { events, bound }) => {
                    this.events = Events::Replay(events.into_iter(), bound);
                    continue;
                }
                Ok(StreamPage::Live(page)) => {
                    this.events = Events::Live(page, 0);
                    continue;
                }
                Ok(StreamPage::CaughtUp(scanned)) => this.course.caught_up(scanned),
                Ok(StreamPage::Heartbeat(scanned)) => this.course.heartbeat(scanned),
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

/// Where a stream of a session is.
pub struct Session {
    hash: QueryHash,
    place: Option<ReplayPlace>,
    /// Before the first event that it may send.
    start: Position,
}

impl Session {
    /// At its start; behind a place when it is resumed.
    pub(super) fn new(hash: QueryHash, start: ReplayStart) -> Self {
        let (place, occurred_at) = match start {
            ReplayStart::After(place) => (Some(place), start_of_year(1)),
            ReplayStart::FromTime(time) => (None, time),
            ReplayStart::Beginning | ReplayStart::LastN(_) => (None, start_of_year(1)),
        };
        Self {
            hash,
            place,
            start: Position {
                occurred_at,
                sequence: 0,
            },
        }
    }

    fn at(&mut self, place: ReplayPlace, item: SessionItem) -> pb::StreamSessionEventsResponse {
        self.place = Some(place);
        pb::StreamSessionEventsResponse {
            cursor: encode(self.hash, &place),
            item: Some(item),
        }
    }

    /// Live, behind the last event sent.
    fn live(&self, scanned: i64) -> ReplayPlace {
        ReplayPlace {
            phase: Phase::Live,
            position: self.place.map_or(self.start, |place| place.position),
            bound: scanned,
        }
    }
}

impl StreamEncoder for Session {
    type Message = pb::StreamSessionEventsResponse;

    fn event(&mut self, event: Event, bound: Option<i64>) -> Self::Message {
        let place = ReplayPlace {
            phase: bound.map_or(Phase::Live, |_| Phase::Replay),
            position: event.position(),
            bound: bound.unwrap_or(event.sequence),
        };
        self.at(place, SessionItem::Event(convert::event(event)))
    }

    fn caught_up(&mut self, scanned: i64) -> Self::Message {
        self.at(self.live(scanned), SessionItem::CaughtUp(pb::CaughtUp {}))
    }

    fn heartbeat(&mut self, scanned: i64) -> Self::Message {
        self.at(self.live(scanned), SessionItem::Heartbeat(now()))
    }

    fn resume(&self) -> Option<(&'static str, String)> {
        let place = self.place?;
        Some(("cursor", encode(self.hash, &place)))
    }
}

/// Where a watch is: everything up to this sequence was looked at.
pub struct Watch(pub(super) i64);

impl Watch {
    fn at(&mut self, sequence: i64, item: WatchItem) -> pb::WatchEventsResponse {
        self.0 = sequence;
        pb::WatchEventsResponse {
            sequence,
            item: Some(item),
        }
    }
}

impl StreamEncoder for Watch {
    type Message = pb::WatchEventsResponse;

    fn event(&mut self, event: Event, _bound: Option<i64>) -> Self::Message {
        self.at(event.sequence, WatchItem::Event(convert::event(event)))
    }

    fn caught_up(&mut self, scanned: i64) -> Self::Message {
        self.at(scanned, WatchItem::CaughtUp(pb::CaughtUp {}))
    }

    fn heartbeat(&mut self, scanned: i64) -> Self::Message {
        self.at(scanned, WatchItem::Heartbeat(now()))
    }

    fn resume(&self) -> Option<(&'static str, String)> {
        Some(("sequence", self.0.to_string()))
    }
}

fn now() -> pb::Heartbeat {
    pb::Heartbeat {
        server_time: Some(SystemTime::now().into()),
    }
}
