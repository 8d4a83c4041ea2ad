//! The budget of a connection: the bytes of its replies in flight, and the time at which its client last took
//! some.

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

/// Maximum time that a call waits for budget.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Interval at which a waiting call checks the server's budget. Released budget of its connection wakes it at
/// once.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);
/// A connection may use at most the free budget of the server divided by this, but always the bytes of a
/// page.
const SHARE_OF_FREE: usize = 8;
/// Bytes of budget that must be free for a call that reserves none.
const FREE_BYTES_MIN: usize = 1024;
/// Replies up to this size may use up to twice the budget: their calls reserve nothing, so pages that other calls
/// reserve meanwhile must not cause refusals.
const SMALL_REPLY_BYTES_MAX: usize = 64 * 1024;
/// Time without progress after which a connection whose API key was revoked or has expired is closed.
const REVOKED_GRACE: Duration = Duration::from_secs(3);

/// The budget of the replies of one connection. It is an extension of every request of the connection.
pub struct ConnectionReplies {
    budget: ReplyBudget,
    /// Bytes of replies in flight and of reservations.
    bytes: AtomicUsize,
    /// Number of replies in flight.
    replies: AtomicUsize,
    /// The sweep before which the client last took a slice, or before which the first reply became ready.
    progress: AtomicU64,
    /// Cancelled when the API key of the last large reply is revoked or expires.
    key_end: Mutex<Option<CancellationToken>>,
    is_closed: AtomicBool,
    /// Wakes the task of the connection when it is closed.
    task: AtomicWaker,
    /// One waiting call at a time checks for budget; the others wait for this permit.
    first_waiting: Semaphore,
    /// Notified when budget of the connection is released.
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

    /// Ready when the connection has to be closed. Must be polled by the task of the connection.
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

    /// Returns whether the client has taken nothing of the replies in flight for the stall limit.
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

    /// Stores the end of a call's API key, after which the connection is closed if its replies are stalled.
    /// Clients use one key per connection; of several keys, the last one counts.
    pub(super) fn set_key_end(&self, end: CancellationToken) {
        *self.key_end.lock() = Some(end);
    }

    /// Returns the number of replies in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.replies.load(Ordering::Relaxed)
    }

    /// Waits until the connection and the server have budget for a call, and reserves `bytes`, which may be
    /// 0.
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
                // After a timeout the server may have budget.
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

    /// Charges a reply, using the reservation of its call.
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
            self.record_progress(); // the client has not taken too long before this reply
        }
        Ok(ReplyInFlight(reservation))
    }

    /// Adds bytes to those in use if the budgets have room for them. `own` is the number of bytes that the
    /// call has reserved.
    fn try_add(&self, bytes: usize, own: usize, effect: Effect) -> bool {
        let used = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        // A write is committed, so its reply may use up to twice the budget.
        let is_small = own == 0 && bytes <= SMALL_REPLY_BYTES_MAX;
        let factor = if is_small || effect == Effect::Write { 2 } else { 1 };
        let has_room = self.has_room(used, bytes, own, factor);
        if has_room {
            self.budget.0.bytes.fetch_add(bytes, Ordering::Relaxed);
        } else {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        has_room
    }

    /// Returns whether the connection, which uses `used` bytes, may use `bytes` more. A reply that is larger
    /// than a budget may use it if no other reply does.
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

/// Reserved budget; dropping it returns the budget.
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
