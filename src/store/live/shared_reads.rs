//! Shares reads among streams. Streams that request the same page while it is being read share the result of
//! the next read. So a commit causes few reads, however many streams have the same filter, and no stream
//! receives a page whose read began before its request.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tracing::Instrument as _;

use super::LiveStreams;
use super::page::{LivePage, LiveQuery};
use crate::domain::event::View;
use crate::domain::filter::QueryHash;
use crate::panics::keep_running;
use crate::store::pg::error::{StoreError, unanswered};
use crate::store::pg::spans;

type Page = Result<Arc<LivePage>, StoreError>;

/// Identifies a page.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct PageId {
    query: QueryHash,
    view: View,
    /// The sequence after which the page starts.
    after: i64,
}

/// The streams that wait for the next read, by page.
type WaitingStreams = HashMap<PageId, Vec<oneshot::Sender<Page>>>;

/// The pages that are being read, each with the streams that wait for its next read. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct SharedReads(Arc<Mutex<WaitingStreams>>);

impl SharedReads {
    /// Takes the streams that wait for the next read of a page. If there are none, removes the page's entry
    /// and returns `None`.
    fn take(&self, page: PageId) -> Option<Vec<oneshot::Sender<Page>>> {
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
    /// Returns the page after this sequence, from a read that began after this call. `size` is the number of
    /// events for which the page probably has room; a page that is shared can have another size.
    pub(super) async fn shared_live_page(&self, query: &Arc<LiveQuery>, after: i64, size: usize) -> Page {
        let page = PageId {
            query: query.hash,
            view: query.view,
            after,
        };
        let (reply, answer) = oneshot::channel();
        let is_first = {
            let mut reads = self.shared_reads.0.lock();
            let is_first = !reads.contains_key(&page);
            reads.entry(page).or_default().push(reply);
            is_first
        };
        if is_first {
            // The read runs in a task of its own, because the first stream may end before the others.
            let (streams, query) = (self.clone(), Arc::clone(query));
            let read = keep_running("shared read", async move || {
                streams.read_shared(page, &query, size).await;
            });
            tokio::spawn(read.instrument(spans::current()));
        }
        answer.await.map_err(unanswered)?
    }

    /// Reads the page until no stream waits for another read of it.
    async fn read_shared(&self, page: PageId, query: &Arc<LiveQuery>, size: usize) {
        while let Some(mut waiting) = self.shared_reads.take(page) {
            let result = tokio::select! {
                result = self.live_page(query, page.after, size) => result.map(Arc::new),
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
async fn all_gone(waiting: &mut [oneshot::Sender<Page>]) {
    for stream in waiting {
        stream.closed().await;
    }
}
