//! The reply streams of `StreamSessionEvents`, `WatchEvents` and `WatchChanges`. They turn pages of events or changes
//! into messages, each with the position at which a client can resume.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::Stream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;

use super::encoders::{ChangeEncoder, SessionEncoder, WatchEncoder};
use super::status::{ApiError, stream_status};
use crate::store::{LivePage, Pages, StreamPage, StreamRow};

/// The reply stream of `StreamSessionEvents`.
pub type SessionStream = PageStream<SessionEncoder>;
/// The reply stream of `WatchEvents`.
pub type WatchStream = PageStream<WatchEncoder>;
/// The reply stream of `WatchChanges`.
pub type ChangeStream = PageStream<ChangeEncoder>;

/// Encodes the items of a stream as messages and tracks the position at which a client can resume.
pub trait StreamEncoder: Unpin {
    /// The kind of row in the stream: an event or a change.
    type Row: StreamRow;
    /// The message type of the stream.
    type Message;
    /// Encodes a row. `bound` is the highest sequence of the replay that an event belongs to, `None` for a live row.
    fn row(&mut self, row: Self::Row, bound: Option<i64>) -> Self::Message;
    /// Encodes that every matching row up to the number `scanned` was sent.
    fn caught_up(&mut self, scanned: i64) -> Self::Message;
    /// Encodes a heartbeat; every row up to the number `scanned` was examined.
    fn heartbeat(&mut self, scanned: i64) -> Self::Message;
    /// Returns name and value of the error metadata from which a client can resume, if it can.
    fn resume(&self) -> Option<(&'static str, String)>;
}

/// A reply stream that encodes pages.
pub struct PageStream<E: StreamEncoder> {
    encoder: E,
    pages: Pages<E::Row>,
    rows: PageRows<E::Row>,
    shutdown: Pin<Box<WaitForCancellationFutureOwned>>,
    ended: bool,
}

/// The unsent rows of a page.
enum PageRows<R> {
    Empty,
    /// Events of a replay, and the highest sequence of the replay.
    Replay(std::vec::IntoIter<R>, i64),
    /// A live page and the index of the next row. Streams share live pages, so rows are cloned.
    Live(Arc<LivePage<R>>, usize),
}

impl<R: StreamRow> PageRows<R> {
    /// Returns the next row and, unless it is a live row, the highest sequence of its replay.
    fn next(&mut self) -> Option<(R, Option<i64>)> {
        match self {
            Self::Empty => None,
            Self::Replay(events, bound) => Some((events.next()?, Some(*bound))),
            Self::Live(page, next) => {
                let row = page.rows.get(*next)?.clone();
                *next += 1;
                if *next == page.rows.len() {
                    *self = Self::Empty; // releases the page before the stream waits for the next one
                }
                Some((row, None))
            }
        }
    }
}

impl<E: StreamEncoder> PageStream<E> {
    /// Creates a stream that ends with UNAVAILABLE once `shutdown` is cancelled.
    pub(super) fn new(encoder: E, pages: Pages<E::Row>, shutdown: CancellationToken) -> Self {
        Self {
            encoder,
            pages,
            rows: PageRows::Empty,
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

impl<E: StreamEncoder> Stream for PageStream<E> {
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
            if let Some((row, bound)) = this.rows.next() {
                this.pages.record_progress();
                return Poll::Ready(Some(Ok(this.encoder.row(row, bound))));
            }
            this.rows = PageRows::Empty;
            let message = match ready!(this.pages.poll_next(cx)) {
                Ok(StreamPage::Replay { events, bound }) => {
                    this.rows = PageRows::Replay(events.into_iter(), bound);
                    continue;
                }
                Ok(StreamPage::Live(page)) => {
                    this.rows = PageRows::Live(page, 0);
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
