//! Bounds the write queue, in events and bytes.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::domain::event::NewEvent;
use crate::store::pg::error::StoreError;
use crate::store::pg::metrics::QueueUsage;

/// Bytes per permit of the byte semaphore.
const BYTES_PER_PERMIT: usize = 1024;

/// The queue capacity that a request holds: permits for events and for bytes. Dropping it returns both.
pub(super) type QueuePermit = [OwnedSemaphorePermit; 2];

/// The capacity of the write queue for unary calls or for ingest streams. Cheap to clone.
#[derive(Clone)]
pub(super) struct QueueBudget {
    items: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    items_max: usize,
    bytes_max: usize,
}

impl QueueBudget {
    /// Creates a budget of this number of events and bytes.
    pub(super) fn new(items_max: usize, bytes_max: usize) -> Self {
        let items_max = items_max.max(1);
        let bytes_max = (bytes_max / BYTES_PER_PERMIT).max(1);
        Self {
            items: Arc::new(Semaphore::new(items_max)),
            bytes: Arc::new(Semaphore::new(bytes_max)),
            items_max,
            bytes_max,
        }
    }

    /// Returns the capacity in use and its limits.
    pub(super) fn usage(&self) -> QueueUsage {
        let bytes = self.bytes_max.saturating_sub(self.bytes.available_permits());
        QueueUsage {
            events: self.items_max.saturating_sub(self.items.available_permits()),
            events_max: self.items_max,
            bytes: bytes * BYTES_PER_PERMIT,
            bytes_max: self.bytes_max * BYTES_PER_PERMIT,
        }
    }

    /// Reserves capacity for the events; `None` if there is not enough now.
    pub(super) fn try_acquire(&self, events: &[NewEvent]) -> Option<QueuePermit> {
        let (count, bytes) = self.permits(events);
        let items = Arc::clone(&self.items).try_acquire_many_owned(count).ok()?;
        let bytes = Arc::clone(&self.bytes).try_acquire_many_owned(bytes).ok()?;
        Some([items, bytes])
    }

    /// Waits for capacity for the events. Requests that wait get capacity in order.
    pub(super) async fn acquire(&self, events: &[NewEvent]) -> Result<QueuePermit, StoreError> {
        let (count, bytes) = self.permits(events);
        let items = Arc::clone(&self.items).acquire_many_owned(count).await;
        let bytes = Arc::clone(&self.bytes).acquire_many_owned(bytes).await;
        match (items, bytes) {
            (Ok(items), Ok(bytes)) => Ok([items, bytes]),
            _ => Err(StoreError::Closing),
        }
    }

    /// Returns the number of permits that the events need, for events and for bytes. A request larger than the
    /// whole budget takes all of it.
    fn permits(&self, events: &[NewEvent]) -> (u32, u32) {
        let bytes: usize = events.iter().map(NewEvent::size).sum();
        let permits = |wanted: usize, max: usize| u32::try_from(wanted.clamp(1, max)).unwrap_or(u32::MAX);
        (
            permits(events.len(), self.items_max),
            permits(bytes / BYTES_PER_PERMIT, self.bytes_max),
        )
    }
}
