//! What a stream's task hands to the stream's body: pages, then how it ends.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tracing::Instrument as _;

use super::page::LivePage;
use crate::domain::event::Event;
use crate::store::pg::error::{StoreError, unanswered};
use crate::store::pg::spans;

/// Some items of a stream, in order.
#[derive(Debug)]
pub enum StreamPage {
    /// Events in replay order, among those up to the bound.
    Replay {
        events: Vec<Event>,
        /// The spirit's `last_sequence` when the replay began.
        bound: i64,
    },
    /// Events in sequence order.
    Live(Arc<LivePage>),
    /// Everything up to this sequence was sent.
    CaughtUp(i64),
    /// Nothing to send; everything up to this sequence was looked at.
    Heartbeat(i64),
}

/// How a stream ended.
pub(super) type StreamEnd = Result<(), StoreError>;

/// A stream as its body reads it. Dropping it stops the work.
#[derive(Debug)]
pub struct Pages {
    next: mpsc::Receiver<StreamPage>,
    end: oneshot::Receiver<StreamEnd>,
    progress: Progress,
}

/// When the reader last took an item.
#[derive(Clone, Debug)]
struct Progress {
    since: Instant,
    millis: Arc<AtomicU64>,
}

/// The task's side: pages go out one at a time, and only when there is room for one.
pub(super) struct PageSender {
    pages: mpsc::Sender<StreamPage>,
    progress: Progress,
    stall_limit: Duration,
}

impl Pages {
    /// A stream that ends without a page.
    #[must_use]
    pub fn none() -> Self {
        Self::of(Duration::MAX, |_| std::future::ready(Ok(())))
    }

    /// Runs a stream's work in a task of its own.
    pub(super) fn of<W>(stall_limit: Duration, work: impl FnOnce(PageSender) -> W) -> Self
    where
        W: Future<Output = StreamEnd> + Send + 'static,
    {
        let (sender, pages) = mpsc::channel(1);
        let (ended, end) = oneshot::channel();
        let progress = Progress {
            since: Instant::now(),
            millis: Arc::default(),
        };
        let work = work(PageSender {
            pages: sender,
            progress: progress.clone(),
            stall_limit,
        });
        let work = async move {
            if ended.send(work.await).is_err() {
                tracing::trace!("the reader of a stream has gone");
            }
        };
        tokio::spawn(work.instrument(spans::current()));
        Self {
            next: pages,
            end,
            progress,
        }
    }

    /// The next page; or, after the last one, how the stream ended.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<StreamPage, Result<(), StoreError>>> {
        if let Some(page) = ready!(self.next.poll_recv(cx)) {
            return Poll::Ready(Ok(page));
        }
        let end = ready!(Pin::new(&mut self.end).poll(cx));
        Poll::Ready(Err(end.unwrap_or_else(|dropped| Err(unanswered(dropped)))))
    }

    /// Takes note that the reader is alive.
    pub fn taken(&self) {
        let millis = u64::try_from(self.progress.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.progress.millis.store(millis, Ordering::Relaxed);
    }
}

impl PageSender {
    /// Room for one page; `None` when the reader has gone. Nothing is to be read before there is room.
    pub(super) async fn room(&self) -> Result<Option<mpsc::Permit<'_, StreamPage>>, StoreError> {
        let wanted = Instant::now();
        loop {
            let taken =
                self.progress.since + Duration::from_millis(self.progress.millis.load(Ordering::Relaxed));
            let stalled = wanted.max(taken) + self.stall_limit;
            if Instant::now() >= stalled {
                return Err(StoreError::Stalled);
            }
            if let Ok(room) = timeout_at(stalled, self.pages.reserve()).await {
                return Ok(room.ok());
            }
        }
    }

    /// Waits until the reader has gone.
    pub(super) async fn closed(&self) {
        self.pages.closed().await;
    }
}
