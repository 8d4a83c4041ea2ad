//! Who waits for which spirit in this process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::domain::ids::SpiritId;

/// The spirits that streams of this process follow. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Hub(Arc<Mutex<HashMap<SpiritId, Entry>>>);

struct Entry {
    signal: watch::Sender<Signal>,
    /// Subscriptions; with the last one the entry goes.
    subscriptions: usize,
    /// What the poll last saw of the spirit.
    polled: Polled,
}

/// What a poll sees of a spirit; a change is worth a look at its events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Polled {
    pub(super) last_sequence: i64,
    pub(super) is_deleted: bool,
}

/// What a stream is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// The spirit may have new events, or none any more.
    Look,
    /// The database is away: the stream is to end.
    Lost,
}

/// A stream's place in the hub; dropping it gives it up.
pub(super) struct Subscription {
    hub: Hub,
    spirit_id: SpiritId,
    signal: watch::Receiver<Signal>,
}

impl Hub {
    /// From now on the subscription hears of the spirit.
    pub(super) fn subscribe(&self, spirit_id: SpiritId) -> Subscription {
        let mut entries = self.lock();
        let entry = entries.entry(spirit_id).or_insert_with(|| Entry {
            signal: watch::Sender::new(Signal::Look),
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

    /// These spirits have changed.
    pub(super) fn wake(&self, spirit_ids: &[SpiritId]) {
        let entries = self.lock();
        if entries.is_empty() {
            return;
        }
        for spirit_id in spirit_ids {
            if let Some(entry) = entries.get(spirit_id) {
                entry.signal.send_replace(Signal::Look);
            }
        }
    }

    /// Any spirit may have changed.
    pub(super) fn wake_all(&self) {
        self.signal_all(Signal::Look);
    }

    /// The database is away: every stream is to end.
    pub(super) fn lose(&self) {
        self.signal_all(Signal::Lost);
    }

    /// The spirits that somebody waits for.
    pub(super) fn watched(&self) -> Vec<SpiritId> {
        self.lock().keys().copied().collect()
    }

    /// How many spirits are followed, and by how many streams.
    pub(super) fn followed(&self) -> (usize, usize) {
        let entries = self.lock();
        (
            entries.len(),
            entries.values().map(|entry| entry.subscriptions).sum(),
        )
    }

    /// Wakes the spirit's streams if the poll sees it changed.
    pub(super) fn polled(&self, spirit_id: SpiritId, polled: Polled) {
        if let Some(entry) = self.lock().get_mut(&spirit_id)
            && entry.polled != polled
        {
            entry.polled = polled;
            entry.signal.send_replace(Signal::Look);
        }
    }

    fn signal_all(&self, signal: Signal) {
        for entry in self.lock().values() {
            entry.signal.send_replace(signal);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SpiritId, Entry>> {
        // Every change under the lock is a single step, so a poisoned one is still whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscription {
    /// Everything signalled up to now is taken note of; to be called before a read.
    pub(super) fn note(&mut self) {
        self.signal.mark_unchanged();
    }

    /// Waits for a signal since the last note.
    pub(super) async fn changed(&mut self) -> Signal {
        match self.signal.changed().await {
            Ok(()) => *self.signal.borrow(),
            Err(_) => Signal::Lost, // the hub keeps the sender while there is a subscription
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
