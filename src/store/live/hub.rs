//! The subscriptions of this process's streams to spirits.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use crate::domain::ids::SpiritId;

/// Wakes the streams that are subscribed to a spirit. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Hub(Arc<Mutex<HashMap<SpiritId, Entry>>>);

/// The subscriptions to one spirit.
struct Entry {
    signal: watch::Sender<Signal>,
    /// Number of subscriptions; the entry is removed with the last one.
    subscriptions: usize,
    /// The spirit's state at the last poll.
    polled: Polled,
}

/// The state of a spirit that a poll reads. If it differs from the last poll's, the streams have to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Polled {
    pub(super) last_sequence: i64,
    pub(super) is_deleted: bool,
}

/// A signal to a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// Read: the spirit may have new events, or may have been deleted or restored.
    Read,
    /// End: the database does not answer.
    End,
}

/// A stream's subscription to a spirit; dropping it unsubscribes.
pub(super) struct Subscription {
    hub: Hub,
    spirit_id: SpiritId,
    signal: watch::Receiver<Signal>,
}

impl Hub {
    /// Subscribes to a spirit. A signal sent from now on wakes the subscription; of several pending signals
    /// it receives the last one.
    pub(super) fn subscribe(&self, spirit_id: SpiritId) -> Subscription {
        let mut entries = self.lock();
        let entry = entries.entry(spirit_id).or_insert_with(|| Entry {
            signal: watch::Sender::new(Signal::Read),
            subscriptions: 0,
            polled: Polled::default(),
        });
        entry.subscriptions += 1;
        let signal = entry.signal.subscribe();
        Subscription {
            hub: self.clone(),
            spirit_id,
            signal,
        }
    }

    /// Wakes the streams of changed spirits.
    pub(super) fn wake(&self, spirit_ids: &[SpiritId]) {
        let entries = self.lock();
        if entries.is_empty() {
            return;
        }
        for spirit_id in spirit_ids {
            if let Some(entry) = entries.get(spirit_id) {
                entry.signal.send_replace(Signal::Read);
            }
        }
    }

    /// Wakes every stream, because any spirit may have changed.
    pub(super) fn wake_all(&self) {
        self.signal_all(Signal::Read);
    }

    /// Ends every stream, because the database does not answer.
    pub(super) fn end_all(&self) {
        self.signal_all(Signal::End);
    }

    /// Returns the spirits that have subscriptions.
    pub(super) fn subscribed_spirits(&self) -> Vec<SpiritId> {
        self.lock().keys().copied().collect()
    }

    /// Returns the number of spirits that have subscriptions, and the number of subscriptions.
    pub(super) fn subscription_counts(&self) -> (usize, usize) {
        let entries = self.lock();
        (
            entries.len(),
            entries.values().map(|entry| entry.subscriptions).sum(),
        )
    }

    /// Records the state that a poll has read, and wakes the spirit's streams if it has changed.
    pub(super) fn record_poll(&self, spirit_id: SpiritId, polled: Polled) {
        if let Some(entry) = self.lock().get_mut(&spirit_id)
            && entry.polled != polled
        {
            entry.polled = polled;
            entry.signal.send_replace(Signal::Read);
        }
    }

    fn signal_all(&self, signal: Signal) {
        for entry in self.lock().values() {
            entry.signal.send_replace(signal);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SpiritId, Entry>> {
        self.0.lock()
    }
}

impl Subscription {
    /// Discards the signals received so far. Call it before a read.
    pub(super) fn mark_seen(&mut self) {
        self.signal.mark_unchanged();
    }

    /// Waits for a signal that was sent after the last [`mark_seen`](Self::mark_seen).
    pub(super) async fn changed(&mut self) -> Signal {
        match self.signal.changed().await {
            Ok(()) => *self.signal.borrow(),
            Err(_) => Signal::End, // unreachable: the hub keeps the sender while there is a subscription
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut entries = self.hub.lock();
        if let Some(entry) = entries.get_mut(&self.spirit_id) {
            entry.subscriptions -= 1;
            if entry.subscriptions == 0 {
                entries.remove(&self.spirit_id);
            }
        }
    }
}
