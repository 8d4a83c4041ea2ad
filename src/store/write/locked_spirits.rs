//! Queues the jobs of spirits whose row another transaction has locked. They wait in a queue per spirit, in
//! order, and delay no job of other spirits.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::flush::Lock;
use super::job::Job;
use super::writer::Writer;
use crate::domain::ids::SpiritId;
use crate::panics::keep_running;

/// Maximum number of connections of one writer that wait for locks at the same time.
const WAITING_CONNECTIONS_MAX: usize = 4;

/// Number of times that a job meets locked spirits before it waits for all its spirits at once. A job of many busy spirits
/// could otherwise find one of them locked again and again, each time after it waited for another.
const LOCK_MISSES_MAX: u32 = 3;

/// A queue per locked spirit, each drained by a task of its own.
pub(super) struct LockedSpirits {
    /// Every change under this mutex is a single step, so a task that panics leaves the queues consistent.
    queues: Mutex<HashMap<SpiritId, VecDeque<Job>>>,
    /// A permit for each connection that may wait.
    connections: Semaphore,
    /// Writers that have waited before, kept with their connections, because waits are frequent and short
    /// where instances contend for a spirit.
    idle: Mutex<Vec<Writer>>,
}

impl Default for LockedSpirits {
    fn default() -> Self {
        Self {
            queues: Mutex::default(),
            connections: Semaphore::new(WAITING_CONNECTIONS_MAX),
            idle: Mutex::default(),
        }
    }
}

impl LockedSpirits {
    /// Returns whether jobs wait for the spirit.
    pub(super) fn is_awaited(&self, spirit_id: SpiritId) -> bool {
        self.queues.lock().contains_key(&spirit_id)
    }

    /// Queues the job if one of its spirits has a queue; returns it otherwise.
    pub(super) fn queue_if_locked(&self, job: Job) -> Option<Job> {
        let mut queues = self.queues.lock();
        if queues.is_empty() {
            return Some(job);
        }
        let locked = job
            .items
            .iter()
            .map(|item| item.spirit_id)
            .find(|id| queues.contains_key(id));
        match locked.and_then(|id| queues.get_mut(&id)) {
            Some(queue) => {
                queue.push_back(job);
                None
            }
            None => Some(job),
        }
    }

    /// Queues the job for a locked spirit and starts the spirit's task if it is not running.
    pub(super) fn enqueue(
        self: &Arc<Self>,
        spirit_id: SpiritId,
        mut job: Job,
        writer: &Writer,
        tasks: &TaskTracker,
    ) {
        job.lock_misses += 1;
        let is_running = {
            let mut queues = self.queues.lock();
            let is_running = queues.contains_key(&spirit_id);
            queues.entry(spirit_id).or_default().push_back(job);
            is_running
        };
        if !is_running {
            tasks.spawn(Arc::clone(self).drain(spirit_id, writer.sibling(), tasks.clone()));
        }
    }

    /// Stores the jobs of a spirit until its queue is empty. Boxed because it starts tasks of its own type.
    fn drain(
        self: Arc<Self>,
        spirit_id: SpiritId,
        new: Writer,
        tasks: TaskTracker,
    ) -> BoxFuture<'static, ()> {
        Box::pin(keep_running("locked spirit", async move || {
            let Ok(_connection) = self.connections.acquire().await else {
                return;
            };
            let idle = self.idle.lock().pop();
            let mut writer = idle.unwrap_or_else(|| new.sibling());
            while let Some(jobs) = self.take(spirit_id) {
                let (patient, starving): (Vec<Job>, Vec<Job>) =
                    jobs.into_iter().partition(|job| !is_starving(job));
                let mut locked = writer.write(patient, Lock::WaitFor(spirit_id)).await;
                for job in starving {
                    locked.extend(writer.write(vec![job], Lock::WaitForAll).await);
                }
                for (other, job) in locked {
                    self.enqueue(other, job, &writer, &tasks);
                }
            }
            writer.forget_sessions();
            self.idle.lock().push(writer);
        }))
    }

    /// Takes the jobs that wait for the spirit. If there are none, removes the spirit's queue and returns
    /// `None`.
    fn take(&self, spirit_id: SpiritId) -> Option<Vec<Job>> {
        let mut queues = self.queues.lock();
        let queue = queues.get_mut(&spirit_id)?;
        if queue.is_empty() {
            queues.remove(&spirit_id);
            return None;
        }
        Some(queue.drain(..).collect())
    }
}

/// Returns whether the job has met locked spirits too often. A job of one spirit keeps its place in the order of this spirit.
fn is_starving(job: &Job) -> bool {
    job.lock_misses >= LOCK_MISSES_MAX && job.has_several_spirits()
}
