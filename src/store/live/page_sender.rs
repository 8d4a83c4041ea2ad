//! The channel from a stream's task to its response body. It carries pages, then the result of the stream.

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
use crate::store::pg::fair_semaphore::Tenant;
use crate::store::pg::spans;

/// A page of a stream: several events, or one item that is not an event.
#[derive(Debug)]
pub enum StreamPage {
    /// Events in replay order with sequences up to `bound`.
    Replay {
        events: Vec<Event>,
        /// The spirit's `last_sequence` at the start of the replay.
        bound: i64,
    },
    /// Events in sequence order.
    Live(Arc<LivePage>),
    /// Every matching event up to this sequence was sent; new events follow.
    CaughtUp(i64),
    /// No event was sent for the heartbeat interval; events up to this sequence were examined.
    Heartbeat(i64),
}

/// The result of a stream.
pub(super) type StreamEnd = Result<(), StoreError>;

/// The receiving end of the channel, read by the response body. Dropping it ends the stream's task.
#[derive(Debug)]
pub struct Pages {
    next: mpsc::Receiver<StreamPage>,
    end: oneshot::Receiver<StreamEnd>,
    progress: Progress,
}

/// The time at which the client last took an item.
#[derive(Clone, Debug)]
struct Progress {
    started: Instant,
    /// Milliseconds since `started`.
    millis: Arc<AtomicU64>,
}

/// The sending end of the channel, held by the stream's task. The channel holds one page at a time.
pub(super) struct PageSender {
    pages: mpsc::Sender<StreamPage>,
    progress: Progress,
    stall_limit: Duration,
}

impl Pages {
    /// Creates a stream that ends without a page.
    #[must_use]
    pub fn none() -> Self {
        Self::spawn(Duration::MAX, |_| std::future::ready(Ok(())))
    }

    /// Runs `work` in a task and returns the pages that it sends.
    pub(super) fn spawn<W>(stall_limit: Duration, work: impl FnOnce(PageSender) -> W) -> Self
    where
        W: Future<Output = StreamEnd> + Send + 'static,
    {
        let (sender, pages) = mpsc::channel(1);
        let (ended, end) = oneshot::channel();
        let progress = Progress {
            started: Instant::now(),
            millis: Arc::default(),
        };
        let work = work(PageSender {
            pages: sender,
            progress: progress.clone(),
            stall_limit,
        });
        let work = async move {
            if ended.send(work.await).is_err() {
                tracing::trace!("the client of a stream has gone away");
            }
        };
        tokio::spawn(Tenant::current().scope(work.instrument(spans::current())));
        Self {
            next: pages,
            end,
            progress,
        }
    }

    /// Polls for the next page; after the last page, for the result of the stream.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<StreamPage, Result<(), StoreError>>> {
        if let Some(page) = ready!(self.next.poll_recv(cx)) {
            return Poll::Ready(Ok(page));
        }
        let end = ready!(Pin::new(&mut self.end).poll(cx));
        Poll::Ready(Err(end.unwrap_or_else(|dropped| Err(unanswered(dropped)))))
    }

    /// Records that the client took an item.
    pub fn record_progress(&self) {
        let millis = u64::try_from(self.progress.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.progress.millis.store(millis, Ordering::Relaxed);
    }
}

impl PageSender {
    /// Waits until a page can be sent; `None` if the client has gone away. Call it before reading the page, so
    /// that nothing is read for a client that does not take it. Fails with `Stalled` when the client has taken
    /// no item for the stall limit.
    pub(super) async fn reserve(&self) -> Result<Option<mpsc::Permit<'_, StreamPage>>, StoreError> {
        let wanted = Instant::now();
        loop {
            let taken =
                self.progress.started + Duration::from_millis(self.progress.millis.load(Ordering::Relaxed));
            let deadline = wanted.max(taken) + self.stall_limit;
            if Instant::now() >= deadline {
                return Err(StoreError::Stalled);
            }
            if let Ok(permit) = timeout_at(deadline, self.pages.reserve()).await {
                return Ok(permit.ok());
            }
        }
    }

    /// Waits until the client has gone away.
    pub(super) async fn closed(&self) {
        self.pages.closed().await;
    }
}
