//! Jobs whose spirit someone else holds: they wait apart, in order, and delay nobody else.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::flush::Lock;
use super::job::Job;
use super::writer::FlushConnection;
use crate::domain::ids::SpiritId;
use crate::panics::keep_running;

/// ConnectionPool that may wait for locks at the same time.
const WAITING_CONNECTIONS_MAX: usize = 4;

/// Queues by spirit; a spirit that has one is held, and a task of its own works it off.
pub(super) struct LockedSpirits {
    queues: Mutex<HashMap<SpiritId, VecDeque<Job>>>,
    connections: Semaphore,
    /// Lanes that have waited before: where instances contend for a spirit, they wait often and shortly.
    idle: Mutex<Vec<FlushConnection>>,
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
    /// Queues the job if one of its spirits is held; gives it back otherwise.
    pub(super) fn queue(&self, job: Job) -> Option<Job> {
        let mut queues = lock(&self.queues);
        if queues.is_empty() {
            return Some(job);
        }
        let held = job
            .items
            .iter()
            .map(|item| item.spirit_id)
            .find(|id| queues.contains_key(id));
        match held.and_then(|id| queues.get_mut(&id)) {
            Some(queue) => {
                queue.push_back(job);
                None
            }
            None => Some(job),
        }
    }

    /// Lets the job wait for the spirit, starting a task for it if there is none.
    pub(super) fn put(self: &Arc<Self>, spirit_id: SpiritId, job: Job, lane: &FlushConnection, tasks: &TaskTracker) {
        let started = {
            let mut queues = lock(&self.queues);
            let started = queues.contains_key(&spirit_id);
            queues.entry(spirit_id).or_default().push_back(job);
            started
        };
        if !started {
            tasks.spawn(Arc::clone(self).work_off(spirit_id, lane.sibling(), tasks.clone()));
        }
    }

    /// Boxed, as it starts others of its kind.
    fn work_off(
        self: Arc<Self>,
        spirit_id: SpiritId,
        new: FlushConnection,
        tasks: TaskTracker,
    ) -> BoxFuture<'static, ()> {
        Box::pin(keep_running("held spirit", async move || {
            let Ok(_connection) = self.connections.acquire().await else {
                return;
            };
            let idle = lock(&self.idle).pop();
            let mut lane = idle.unwrap_or_else(|| new.sibling());
            while let Some(jobs) = self.take(spirit_id) {
                for (other, job) in lane.flush(jobs, Lock::WaitFor(spirit_id)).await {
                    self.put(other, job, &lane, &tasks);
                }
            }
            lock(&self.idle).push(lane);
        }))
    }

    /// What waits for the spirit; once nothing does, it is no longer held.
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
    // Every change under a lock is a single step, so a poisoned one is still whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
