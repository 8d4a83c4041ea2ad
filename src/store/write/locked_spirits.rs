//! Jobs of spirits whose row another transaction has locked: they wait apart, in order, and delay no other job.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::flush::Lock;
use super::job::Job;
use super::writer::Writer;
use crate::domain::ids::SpiritId;
use crate::panics::keep_running;

/// Connections of one writer that may wait for locks at the same time.
const WAITING_CONNECTIONS_MAX: usize = 4;

/// A queue per locked spirit, each drained by a task of its own.
pub(super) struct LockedSpirits {
    queues: Mutex<HashMap<SpiritId, VecDeque<Job>>>,
    connections: Semaphore,
    /// Writers that have waited before. Where instances contend for a spirit, waits are frequent and short.
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
    /// Queues the job if one of its spirits is locked; returns it otherwise.
    pub(super) fn queue_if_locked(&self, job: Job) -> Option<Job> {
        let mut queues = lock(&self.queues);
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
    pub(super) fn wait(
        self: &Arc<Self>,
        spirit_id: SpiritId,
        job: Job,
        writer: &Writer,
        tasks: &TaskTracker,
    ) {
        let is_running = {
            let mut queues = lock(&self.queues);
            let is_running = queues.contains_key(&spirit_id);
            queues.entry(spirit_id).or_default().push_back(job);
            is_running
        };
        if !is_running {
            tasks.spawn(Arc::clone(self).drain(spirit_id, writer.sibling(), tasks.clone()));
        }
    }

    /// Boxed because it starts tasks of its own type.
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
            let idle = lock(&self.idle).pop();
            let mut writer = idle.unwrap_or_else(|| new.sibling());
            while let Some(jobs) = self.take(spirit_id) {
                for (other, job) in writer.write(jobs, Lock::WaitFor(spirit_id)).await {
                    self.wait(other, job, &writer, &tasks);
                }
            }
            lock(&self.idle).push(writer);
        }))
    }

    /// Takes the jobs that wait for the spirit. When there are none, the spirit's queue is removed.
    fn take(&self, spirit_id: SpiritId) -> Option<Vec<Job>> {
        let mut queues = lock(&self.queues);
        let queue = queues.get_mut(&spirit_id)?;
        if queue.is_empty() {
            queues.remove(&spirit_id);
            return None;
        }
        Some(queue.drain(..).collect())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change under a lock is a single step, so the data behind a poisoned lock is consistent.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
