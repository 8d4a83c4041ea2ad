//! The subscriptions of this process's streams to spirits.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use crate::domain::ids::SpiritId;

/// Wakes the streams that are subscribed to a spirit. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Hub(Arc<Mutex<HashMap<(SpiritId, Topic), Entry>>>);

/// The rows of a spirit that a stream sends. A commit of events does not wake the streams of changes, and the reverse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::store) enum Topic {
    /// New events, and whether the spirit is soft-deleted.
    Events,
    /// Changes of events.
    Changes,
}

impl Topic {
    pub(super) const ALL: [Self; 2] = [Self::Events, Self::Changes];
}

/// The number of subscriptions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct SubscriptionCounts {
    /// Spirits that have subscriptions.
    pub(in crate::store) spirits: usize,
    /// Subscriptions to events.
    pub(in crate::store) events: usize,
    /// Subscriptions to changes.
    pub(in crate::store) changes: usize,
}

/// The subscriptions to one topic of a spirit.
struct Entry {
    signal: watch::Sender<Signal>,
    /// Number of subscriptions; the entry is removed with the last one.
    subscriptions: usize,
    /// The spirit's state at the last poll.
    polled: Polled,
}

/// The state of a topic that a poll reads. If it differs from the last poll's, the streams have to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Polled {
    /// The last sequence or the last change.
    pub(super) last: i64,
    pub(super) is_deleted: bool,
}

/// A signal to a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// Read: the topic may have new rows.
    Read,
    /// End: the database does not answer.
    End,
}

/// A stream's subscription to a topic of a spirit; dropping it unsubscribes.
pub(super) struct Subscription {
    hub: Hub,
    spirit_id: SpiritId,
    topic: Topic,
    signal: watch::Receiver<Signal>,
}

impl Hub {
    /// Subscribes to a topic of a spirit. A signal sent from now on wakes the subscription; of several pending signals
    /// it receives the last one.
    pub(super) fn subscribe(&self, spirit_id: SpiritId, topic: Topic) -> Subscription {
        let mut entries = self.lock();
        let entry = entries.entry((spirit_id, topic)).or_insert_with(|| Entry {
            signal: watch::Sender::new(Signal::Read),
            subscriptions: 0,
            polled: Polled::default(),
        });
        entry.subscriptions += 1;
        let signal = entry.signal.subscribe();
        Subscription {
            hub: self.clone(),
            spirit_id,
            topic,
            signal,
        }
    }

    /// Wakes the streams of spirits that have new rows.
    pub(super) fn wake(&self, spirit_ids: &[SpiritId], topic: Topic) {
        let entries = self.lock();
        if entries.is_empty() {
            return;
        }
        for spirit_id in spirit_ids {
            if let Some(entry) = entries.get(&(*spirit_id, topic)) {
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
        let entries = self.lock();
        let spirit_ids: HashSet<SpiritId> = entries.keys().map(|(spirit_id, _)| *spirit_id).collect();
        spirit_ids.into_iter().collect()
    }

    /// Returns the numbers of subscriptions.
    pub(super) fn subscription_counts(&self) -> SubscriptionCounts {
        let spirits = self.subscribed_spirits().len();
        let entries = self.lock();
        let count = |topic| {
            let of_topic = entries.iter().filter(|((_, other), _)| *other == topic);
            of_topic.map(|(_, entry)| entry.subscriptions).sum()
        };
        SubscriptionCounts {
            spirits,
            events: count(Topic::Events),
            changes: count(Topic::Changes),
        }
    }

    /// Records the state of a topic that a poll has read, and wakes its streams if it has changed.
    pub(super) fn record_poll(&self, spirit_id: SpiritId, topic: Topic, polled: Polled) {
        if let Some(entry) = self.lock().get_mut(&(spirit_id, topic))
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

    fn lock(&self) -> MutexGuard<'_, HashMap<(SpiritId, Topic), Entry>> {
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
        let key = (self.spirit_id, self.topic);
        if let Some(entry) = entries.get_mut(&key) {
            entry.subscriptions -= 1;
            if entry.subscriptions == 0 {
                entries.remove(&key);
            }
        }
    }
}
