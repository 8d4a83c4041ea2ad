//! The channel from a stream's task to its response body. It carries pages, then the result of the stream.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tracing::Instrument as _;

use super::PAGE_BYTES;
use super::feed::{LivePage, StreamRow};
use crate::store::pg::error::{StoreError, unanswered};
use crate::store::pg::fair_semaphore::Tenant;
use crate::store::pg::spans;

/// A page of a stream: several rows, or one item that is not a row.
#[derive(Debug)]
pub enum StreamPage<R> {
    /// Events in replay order with sequences up to `bound`.
    Replay {
        events: Vec<R>,
        /// The spirit's `last_sequence` at the start of the replay.
        bound: i64,
    },
    /// Rows in the order of their numbers.
    Live(Arc<LivePage<R>>),
    /// Every matching row up to this number was sent; new rows follow.
    CaughtUp(i64),
    /// No row was sent for the heartbeat interval; rows up to this number were examined.
    Heartbeat(i64),
}

/// Pages that a stream holds: the one that the client takes, and the next one, which is read ahead.
const PAGES_MAX: usize = 2;

/// The result of a stream.
pub(super) type StreamEnd = Result<(), StoreError>;

/// The receiving end of the channel, read by the response body. Dropping it ends the stream's task.
#[derive(Debug)]
pub struct Pages<R> {
    next: mpsc::Receiver<(StreamPage<R>, OwnedSemaphorePermit)>,
    end: oneshot::Receiver<StreamEnd>,
    progress: Progress,
    permits: Arc<Semaphore>,
    /// Permits of the page that the client takes.
    taken: Option<OwnedSemaphorePermit>,
}

/// The time at which the client last took an item.
#[derive(Clone, Debug)]
struct Progress {
    started: Instant,
    /// Milliseconds since `started`.
    millis: Arc<AtomicU64>,
}

/// The sending end of the channel, held by the stream's task.
pub(super) struct PageSender<R> {
    pages: mpsc::Sender<(StreamPage<R>, OwnedSemaphorePermit)>,
    progress: Progress,
    stall_limit: Duration,
    /// Permits for the pages that the stream holds, the one that the client takes included.
    permits: Arc<Semaphore>,
}

/// The permit to read and send a page.
pub(super) struct PagePermit<'s, R> {
    sender: &'s PageSender<R>,
    permit: OwnedSemaphorePermit,
}

impl<R: StreamRow> Pages<R> {
    /// Creates a stream that ends without a page.
    #[must_use]
    pub fn none() -> Self {
        Self::spawn(Duration::MAX, |_| std::future::ready(Ok(())))
    }

    /// Runs `work` in a task and returns the pages that it sends.
    pub(super) fn spawn<W>(stall_limit: Duration, work: impl FnOnce(PageSender<R>) -> W) -> Self
    where
        W: Future<Output = StreamEnd> + Send + 'static,
    {
        let (sender, pages) = mpsc::channel(PAGES_MAX);
        let permits = Arc::new(Semaphore::new(PAGES_MAX));
        let (ended, end) = oneshot::channel();
        let progress = Progress {
            started: Instant::now(),
            millis: Arc::default(),
        };
        let work = work(PageSender {
            pages: sender,
            progress: progress.clone(),
            stall_limit,
            permits: Arc::clone(&permits),
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
            permits,
            taken: None,
        }
    }

    /// Polls for the next page; after the last page, for the result of the stream. Poll once the client has taken
    /// the previous page, since this releases its permits.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<StreamPage<R>, Result<(), StoreError>>> {
        self.taken = None;
        if let Some((page, permit)) = ready!(self.next.poll_recv(cx)) {
            self.taken = Some(permit);
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

impl<R> Drop for Pages<R> {
    fn drop(&mut self) {
        self.permits.close();
    }
}

impl<R: StreamRow> StreamPage<R> {
    /// Returns whether the page is a single row that is larger than the byte budget of a page.
    fn is_oversized(&self) -> bool {
        let rows = match self {
            Self::Replay { events, .. } => events.as_slice(),
            Self::Live(page) => page.rows.as_slice(),
            Self::CaughtUp(_) | Self::Heartbeat(_) => &[],
        };
        match rows {
            [row] => row.text_bytes() > PAGE_BYTES,
            _ => false,
        }
    }
}

impl<R: StreamRow> PageSender<R> {
    /// Waits until a page can be read and sent; `None` if the client has gone away. Call it before reading the
    /// page, so that nothing is read for a client that does not take it. Fails with `Stalled` when the client has
    /// taken no item for the stall limit.
    pub(super) async fn reserve(&self) -> Result<Option<PagePermit<'_, R>>, StoreError> {
        let permit = self.acquire().await?;
        Ok(permit.map(|permit| PagePermit { sender: self, permit }))
    }

    /// Acquires a permit; `None` if the client has gone away.
    async fn acquire(&self) -> Result<Option<OwnedSemaphorePermit>, StoreError> {
        let wanted = Instant::now();
        loop {
            let taken =
                self.progress.started + Duration::from_millis(self.progress.millis.load(Ordering::Relaxed));
            let deadline = wanted.max(taken) + self.stall_limit;
            if Instant::now() >= deadline {
                return Err(StoreError::Stalled);
            }
            if let Ok(permit) = timeout_at(deadline, Arc::clone(&self.permits).acquire_owned()).await {
                return Ok(permit.ok());
            }
        }
    }

    /// Waits until the client has gone away.
    pub(super) async fn closed(&self) {
        self.pages.closed().await;
    }
}

impl<R: StreamRow> PagePermit<'_, R> {
    /// Sends a page. An oversized one is sent once the client has taken every page before it, and nothing is read
    /// until the client has taken it, too. Fails with `Stalled` after the stall limit.
    pub(super) async fn send(mut self, page: StreamPage<R>) -> Result<(), StoreError> {
        if page.is_oversized() {
            while self.permit.num_permits() < PAGES_MAX {
                match self.sender.acquire().await? {
                    Some(permit) => self.permit.merge(permit),
                    None => return Ok(()),
                }
            }
        }
        // The channel has room for as many pages as there are permits.
        if self.sender.pages.try_send((page, self.permit)).is_err() {
            tracing::trace!("the client of a stream has gone");
        }
        Ok(())
    }
}
