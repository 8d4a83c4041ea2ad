//! Starts the writers and divides requests among their queues.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::IngestSettings;
use super::division::Division;
use super::group_commit::GroupCommit;
use super::job::{Answer, Job};
use super::locked_spirits::LockedSpirits;
use super::queue::QueuePermit;
use super::writer::Writer;
use crate::domain::event::{BatchMode, NewEvent};
use crate::domain::ids::SpiritId;
use crate::store::live::Announcer;
use crate::store::pg::error::StoreError;
use crate::store::pg::metrics::StoreMetrics;
use crate::store::pg::session::Connector;

/// The writers, and the settings to start them with. On a distributed database they start once its shards are known.
pub(super) struct Dispatcher {
    connector: Connector,
    settings: IngestSettings,
    announcer: Announcer,
    metrics: StoreMetrics,
    writers: OnceLock<Writers>,
    /// Number of calls refused since the last log line about refused calls.
    refused: Arc<AtomicU64>,
    closing: CancellationToken,
    tasks: TaskTracker,
}

/// The queues of the writers that run.
struct Writers {
    division: Arc<Division>,
    queues: Vec<mpsc::UnboundedSender<Job>>,
    /// The creates that wait for locked spirits, for each writer.
    locked: Vec<Arc<LockedSpirits>>,
}

impl Dispatcher {
    pub(super) fn new(
        connector: Connector,
        settings: IngestSettings,
        announcer: Announcer,
        metrics: StoreMetrics,
    ) -> Self {
        Self {
            connector,
            settings,
            announcer,
            metrics,
            writers: OnceLock::new(),
            refused: Arc::default(),
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// Starts the writers, unless they run already. They run until [`close`](Self::close), or until the last owner of the
    /// dispatcher is dropped.
    pub(super) fn start(&self, division: Division) {
        self.writers.get_or_init(|| {
            let division = Arc::new(division);
            let writer = Writer::new(
                self.connector.clone(),
                self.settings,
                Arc::clone(&division),
                self.announcer.clone(),
                self.metrics.clone(),
            );
            let locked: Vec<Arc<LockedSpirits>> = (0..division.writers()).map(|_| Arc::default()).collect();
            let queues = locked.iter().map(|locked| {
                let (sender, queue) = mpsc::unbounded_channel();
                let group_commit =
                    GroupCommit::new(writer.sibling(), Arc::clone(locked), Arc::clone(&self.refused));
                self.tasks.spawn(group_commit.run(queue, self.closing.clone()));
                sender
            });
            Writers {
                queues: queues.collect(),
                division,
                locked,
            }
        });
    }

    /// Refuses further creates, commits the queued ones and ends the writers.
    pub(super) async fn close(&self) {
        self.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Counts a refused call.
    pub(super) fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns whether creates of the spirit wait for its lock in this process.
    pub(super) fn is_awaited(&self, spirit_id: SpiritId) -> bool {
        self.writers.get().is_some_and(|writers| {
            let writer = writers.division.writer_of(spirit_id);
            writers.locked[writer].is_awaited(spirit_id)
        })
    }

    /// Queues a job for the writer of its spirit. A job whose items may be stored independently is split among the
    /// writers of their spirits; its capacity is reserved for all of them. Another job goes to the writer of its first
    /// spirit.
    pub(super) fn send(
        &self,
        events: Vec<NewEvent>,
        mode: BatchMode,
        permit: QueuePermit,
    ) -> oneshot::Receiver<Answer> {
        let (job, answer) = Job::new(events, mode, permit);
        let Some(Writers { division, queues, .. }) = self.writers.get() else {
            let reason = "the shards of the database are not known yet";
            job.answer(Err(StoreError::Unavailable(reason.to_owned())));
            return answer;
        };
        let writer_of = |event: &NewEvent| division.writer_of(event.spirit_id);
        for job in job.divide_by(queues.len(), |_, event| writer_of(event)) {
            let writer = job.items.first().map_or(0, |event| writer_of(event));
            if let Err(unsent) = queues[writer].send(job) {
                unsent.0.answer(Err(StoreError::Closing));
            }
        }
        answer
    }
}
