//! The account of a connection: bytes of its replies in flight, and when its client last took some.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{ReplyBudget, SWEEP_INTERVAL};
use crate::domain::limits::PAGE_BYTES;
use crate::grpc::status::ApiError;

/// Time limit of the wait for budget.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Interval at which a waiting call checks the server's budget. Budget of its own connection wakes it at once.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);
/// A connection may take at most this part of the server's free budget, but always a page.
const SHARE_OF_FREE: usize = 8;
/// Budget that must be free for a call without a reservation.
const FREE_BYTES_MIN: usize = 1024;
/// Time in which a connection may still send the replies of a key that was revoked.
const REVOKED_GRACE: Duration = Duration::from_secs(3);

/// The replies in flight of a connection. It travels with the requests of the connection.
pub struct ConnectionReplies {
    budget: ReplyBudget,
    /// Bytes of replies in flight and of reservations.
    bytes: AtomicUsize,
    /// Replies in flight.
    replies: AtomicUsize,
    /// The sweep before which the client last took a slice, or before which the first reply became ready.
    progress: AtomicU64,
    /// Cancelled when the key of the last large reply is revoked or expires.
    key_end: Mutex<Option<CancellationToken>>,
    is_closed: AtomicBool,
    /// Wakes the task of the connection when it is closed.
    task: AtomicWaker,
    /// One waiting call at a time checks for budget; the others queue behind it.
    first_waiting: Semaphore,
    released: Notify,
}

/// Whether a call has changed something when its reply is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Read,
    Write,
}

impl ConnectionReplies {
    pub(super) fn new(budget: ReplyBudget) -> Self {
        Self {
            budget,
            bytes: AtomicUsize::new(0),
            replies: AtomicUsize::new(0),
            progress: AtomicU64::new(0),
            key_end: Mutex::default(),
            is_closed: AtomicBool::new(false),
            task: AtomicWaker::new(),
            first_waiting: Semaphore::new(1),
            released: Notify::new(),
        }
    }

    /// Resolves when the connection has to be closed. Call it from the task of the connection.
    pub fn poll_closed(&self, cx: &Context<'_>) -> Poll<()> {
        self.task.register(cx.waker());
        if self.is_closed.load(Ordering::Acquire) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// Closes the connection. Returns false if it was closed already.
    pub(super) fn close(&self) -> bool {
        let is_first = !self.is_closed.swap(true, Ordering::AcqRel);
        self.task.wake();
        is_first
    }

    pub(super) fn is_stalled(&self, now: u64, stall_limit: Duration) -> bool {
        if self.replies.load(Ordering::Acquire) == 0 {
            return false;
        }
        // The first sweep after the progress may follow it at once.
        let sweeps = now.saturating_sub(self.progress.load(Ordering::Relaxed) + 1);
        let silent = SWEEP_INTERVAL * u32::try_from(sweeps).unwrap_or(u32::MAX);
        let is_revoked = || {
            let key_end = self.key_end.lock();
            key_end.as_ref().is_some_and(CancellationToken::is_cancelled)
        };
        silent >= stall_limit || (silent >= REVOKED_GRACE && is_revoked())
    }

    /// Remembers the key of a call, so that its end closes the connection if its replies are stalled. Clients
    /// use one key per connection; of several keys the last one is remembered.
    pub(super) fn remember_key(&self, end: CancellationToken) {
        *self.key_end.lock() = Some(end);
    }

    /// Number of replies in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.replies.load(Ordering::Relaxed)
    }

    /// Waits for the budget of a call and reserves `bytes` of it, or nothing if `bytes` is 0.
    pub(super) async fn admit(self: &Arc<Self>, bytes: usize) -> Result<Reservation, ApiError> {
        if let Some(reservation) = self.try_reserve(bytes) {
            return Ok(reservation);
        }
        let waited = timeout(WAIT_MAX, async {
            let _first = self.first_waiting.acquire().await.ok();
            loop {
                if let Some(reservation) = self.try_reserve(bytes) {
                    return reservation;
                }
                // On a timeout the server may have budget.
                let _released = timeout(RETRY_INTERVAL, self.released.notified()).await;
            }
        });
        waited.await.map_err(|_| self.refuse())
    }

    fn try_reserve(self: &Arc<Self>, bytes: usize) -> Option<Reservation> {
        let is_free = if bytes == 0 {
            self.has_room(self.bytes.load(Ordering::Relaxed), FREE_BYTES_MIN, 0, 1)
        } else {
            self.try_add(bytes, 0, Effect::Read)
        };
        is_free.then(|| Reservation {
            connection: Arc::clone(self),
            bytes,
        })
    }

    /// Turns the reservation of a call into the charge of its reply.
    pub(super) fn charge(
        &self,
        mut reservation: Reservation,
        bytes: usize,
        effect: Effect,
    ) -> Result<ReplyInFlight, ApiError> {
        if let Some(surplus) = reservation.bytes.checked_sub(bytes) {
            reservation.release(surplus);
        } else {
            let missing = bytes - reservation.bytes;
            if !self.try_add(missing, reservation.bytes, effect) {
                let refusal = self.refuse();
                return Err(match effect {
                    Effect::Read => refusal,
                    Effect::Write => ApiError::ReplyDropped,
                });
            }
            reservation.bytes = bytes;
        }
        if self.replies.fetch_add(1, Ordering::AcqRel) == 0 {
            self.record_progress(); // the client's time begins now
        }
        Ok(ReplyInFlight(reservation))
    }

    /// Adds bytes if there is room for them. `own` are those that the call holds already.
    fn try_add(&self, bytes: usize, own: usize, effect: Effect) -> bool {
        let used = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        // A write is done; its reply may use as much again as the budget.
        let factor = if effect == Effect::Write { 2 } else { 1 };
        let has_room = self.has_room(used, bytes, own, factor);
        if has_room {
            self.budget.0.bytes.fetch_add(bytes, Ordering::Relaxed);
        } else {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        has_room
    }

    /// Returns whether the connection, which uses `used` bytes, may use more. A reply that is larger than a budget
    /// may use it if nothing else does.
    fn has_room(&self, used: usize, bytes: usize, own: usize, factor: usize) -> bool {
        let limits = &self.budget.0.limits;
        let server_used = self.budget.0.bytes.load(Ordering::Relaxed);
        let free = limits.server_bytes_max.saturating_sub(server_used);
        let share = (free / SHARE_OF_FREE)
            .max(PAGE_BYTES)
            .min(limits.connection_bytes_max);
        let fits = |used: usize, max: usize| used <= own || used.saturating_add(bytes) <= factor * max;
        fits(used, share) && fits(server_used, limits.server_bytes_max)
    }

    fn record_progress(&self) {
        let sweep = self.budget.0.sweeps.load(Ordering::Relaxed);
        self.progress.store(sweep, Ordering::Relaxed);
    }

    fn refuse(&self) -> ApiError {
        self.budget.0.refusals.inc();
        ApiError::RepliesNotTaken
    }
}

/// Reserved budget; given back when it is dropped.
pub(super) struct Reservation {
    connection: Arc<ConnectionReplies>,
    bytes: usize,
}

impl Reservation {
    fn release(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        if bytes > 0 {
            self.bytes -= bytes;
            self.connection.bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.connection.budget.0.bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.connection.released.notify_one();
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.release(self.bytes);
    }
}

/// A reply that the client has not taken yet.
pub(super) struct ReplyInFlight(Reservation);

impl ReplyInFlight {
    /// Records that the client took some bytes.
    pub(super) fn record_progress(&self) {
        self.0.connection.record_progress();
    }
}

impl Drop for ReplyInFlight {
    fn drop(&mut self) {
        self.0.connection.replies.fetch_sub(1, Ordering::AcqRel);
    }
}
