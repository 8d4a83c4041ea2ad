//! Group commit: commits together the jobs that were queued for a writer during its previous commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::flush::Lock;
use super::job::Job;
use super::locked_spirits::LockedSpirits;
use super::writer::Writer;
use crate::panics::keep_running;

/// Takes jobs from the queue of one writer and commits them together.
pub(super) struct GroupCommit {
    writer: Writer,
    locked: Arc<LockedSpirits>,
    /// Number of calls refused since the last log line about refused calls.
    refused: Arc<AtomicU64>,
    /// Tasks that wait for the locks of spirits.
    waiting: TaskTracker,
}

impl GroupCommit {
    pub(super) fn new(writer: Writer, locked: Arc<LockedSpirits>, refused: Arc<AtomicU64>) -> Self {
        Self {
            writer,
            locked,
            refused,
            waiting: TaskTracker::new(),
        }
    }

    /// Commits jobs until the queue is closed and empty and no job waits for a lock.
    pub(super) async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Job>, closing: CancellationToken) {
        let waiting = self.waiting.clone();
        keep_running("writer", async move || self.drain(&mut queue, &closing).await).await;
        waiting.close();
        waiting.wait().await;
    }

    /// Commits the queued jobs until the queue is closed and empty.
    async fn drain(&mut self, queue: &mut mpsc::UnboundedReceiver<Job>, closing: &CancellationToken) {
        loop {
            let first = tokio::select! {
                biased; // a caller that keeps sending must not keep the queue open
                () = closing.cancelled(), if !queue.is_closed() => {
                    queue.close();
                    continue;
                }
                job = queue.recv() => job,
            };
            let Some(first) = first else { return };
            let jobs = self.gather(first, queue);
            if jobs.is_empty() {
                continue;
            }
            for (spirit_id, job) in self.writer.write(jobs, Lock::Skip).await {
                self.locked.enqueue(spirit_id, job, &self.writer, &self.waiting);
            }
            let refused = self.refused.swap(0, Ordering::Relaxed);
            if refused > 0 {
                tracing::warn!(refused, "calls were refused because the write queue was full");
            }
        }
    }

    /// Takes jobs from the queue, up to the size of a flush. A job of a spirit that is known to be locked goes to
    /// the queue of that spirit instead.
    fn gather(&self, first: Job, queue: &mut mpsc::UnboundedReceiver<Job>) -> Vec<Job> {
        let mut jobs = Vec::new();
        let mut items = 0;
        let mut next = Some(first);
        while let Some(job) = next {
            if let Some(job) = self.locked.queue_if_locked(job) {
                items += job.items.len();
                jobs.push(job);
            }
            if items >= self.writer.flush_items_max() {
                break;
            }
            next = queue.try_recv().ok();
        }
        jobs
    }
}
