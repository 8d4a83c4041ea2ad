//! Shares reads among streams: streams that request the same page while it is being read get the result of the
//! next read together. A commit causes few reads, however many streams follow the spirit with the same filter,
//! and no stream gets a page whose read began before its request.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
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

/// Query, view, and the sequence that the page starts after.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key(QueryHash, View, i64);

/// The pages that are being read, each with the streams that wait for the next read of it. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct SharedReads(Arc<Mutex<HashMap<Key, Vec<oneshot::Sender<Page>>>>>);

impl SharedReads {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Vec<oneshot::Sender<Page>>>> {
        self.0.lock()
    }

    /// Takes the streams that wait for the next read of a page. Removes the page's entry if there are none.
    fn take(&self, key: Key) -> Option<Vec<oneshot::Sender<Page>>> {
        let mut reads = self.lock();
        let mut waiting = std::mem::take(reads.get_mut(&key)?);
        waiting.retain(|stream| !stream.is_closed());
        if waiting.is_empty() {
            reads.remove(&key);
            return None;
        }
        Some(waiting)
    }
}

impl LiveStreams {
    /// Returns the page after this sequence, from a read that began after this call.
    pub(super) async fn shared_live_page(&self, query: &Arc<LiveQuery>, after: i64) -> Page {
        let key = Key(query.hash, query.view, after);
        let (reply, answer) = oneshot::channel();
        let is_first = {
            let mut reads = self.shared_reads.lock();
            let is_first = !reads.contains_key(&key);
            reads.entry(key).or_default().push(reply);
            is_first
        };
        if is_first {
            // A task of its own, because the first stream may end before the others.
            let (streams, query) = (self.clone(), Arc::clone(query));
            let read = keep_running("shared read", async move || {
                streams.read_shared(key, &query).await;
            });
            tokio::spawn(read.instrument(spans::current()));
        }
        answer.await.map_err(unanswered)?
    }

    async fn read_shared(&self, key: Key, query: &Arc<LiveQuery>) {
        while let Some(mut waiting) = self.shared_reads.take(key) {
            let page = tokio::select! {
                page = self.live_page(query, key.2) => page.map(Arc::new),
                () = all_gone(&mut waiting) => continue,
            };
            for reply in waiting {
                if reply.send(page.clone()).is_err() {
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
