//! Shares reads among streams. Streams that request the same page while it is being read share the result of
//! the next read. So a commit causes few reads, however many streams have the same filter, and no stream
//! receives a page whose read began before its request.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tracing::Instrument as _;

use super::LiveStreams;
use super::feed::{Feed, FeedId, LivePage, StreamRow};
use crate::panics::keep_running;
use crate::store::pg::error::{StoreError, unanswered};
use crate::store::pg::spans;

type Page<R> = Result<Arc<LivePage<R>>, StoreError>;

/// Identifies a page.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct PageId {
    feed: FeedId,
    /// The number after which the page starts.
    after: i64,
}

/// The streams that wait for the next read, by page.
type WaitingStreams<R> = HashMap<PageId, Vec<oneshot::Sender<Page<R>>>>;

/// The pages that are being read, each with the streams that wait for its next read. Cheap to clone.
#[derive(Clone)]
pub(super) struct SharedReads<R>(Arc<Mutex<WaitingStreams<R>>>);

impl<R> Default for SharedReads<R> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<R: StreamRow> SharedReads<R> {
    /// Takes the streams that wait for the next read of a page. If there are none, removes the page's entry
    /// and returns `None`.
    fn take(&self, page: PageId) -> Option<Vec<oneshot::Sender<Page<R>>>> {
        let mut reads = self.0.lock();
        let mut waiting = std::mem::take(reads.get_mut(&page)?);
        waiting.retain(|stream| !stream.is_closed());
        if waiting.is_empty() {
            reads.remove(&page);
            return None;
        }
        Some(waiting)
    }
}

impl LiveStreams {
    /// Returns the page after this number, from a read that began after this call. `size` is the number of
    /// rows for which the page probably has room; a page that is shared can have another size.
    pub(super) async fn shared_live_page<F: Feed>(
        &self,
        feed: &Arc<F>,
        after: i64,
        size: usize,
    ) -> Page<F::Row> {
        let page = PageId {
            feed: feed.id(),
            after,
        };
        let (reply, answer) = oneshot::channel();
        let is_first = {
            let mut reads = F::shared_reads(self).0.lock();
            let is_first = !reads.contains_key(&page);
            reads.entry(page).or_default().push(reply);
            is_first
        };
        if is_first {
            // The read runs in a task of its own, because the first stream may end before the others.
            let (streams, feed) = (self.clone(), Arc::clone(feed));
            let read = keep_running("shared read", async move || {
                streams.read_shared(page, &feed, size).await;
            });
            tokio::spawn(read.instrument(spans::current()));
        }
        answer.await.map_err(unanswered)?
    }

    /// Reads the page until no stream waits for another read of it.
    async fn read_shared<F: Feed>(&self, page: PageId, feed: &Arc<F>, size: usize) {
        while let Some(mut waiting) = F::shared_reads(self).take(page) {
            let result = tokio::select! {
                result = feed.page(self, page.after, size) => result.map(Arc::new),
                () = all_gone(&mut waiting) => continue,
            };
            for reply in waiting {
                if reply.send(result.clone()).is_err() {
                    tracing::trace!("the stream ended before its page was read");
                }
            }
        }
    }
}

/// Resolves when every waiting stream has ended.
async fn all_gone<R: StreamRow>(waiting: &mut [oneshot::Sender<Page<R>>]) {
    for stream in waiting {
        stream.closed().await;
    }
}
