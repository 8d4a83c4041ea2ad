//! Turns of edits: few edits of one spirit hold connections at the same time.
//!
//! An edit locks its spirit until its commit, so edits of one spirit run one after another in any case. Without turns,
//! those that wait for the lock would hold the connections that other calls need.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::domain::ids::SpiritId;

/// Edits of a spirit that hold connections: one that has the lock, and one that takes it next.
const EDITS_MAX: usize = 2;

/// The turns of all spirits that are being edited.
#[derive(Default)]
pub(super) struct Turns(Mutex<HashMap<SpiritId, Arc<Semaphore>>>);

/// The right to edit a spirit, until it is dropped.
pub(in crate::store) struct Turn {
    turns: Arc<Turns>,
    spirit_id: SpiritId,
    /// `None` while the edit waits.
    permit: Option<OwnedSemaphorePermit>,
}

impl Turns {
    /// Waits for a turn, in order of arrival.
    pub(super) async fn take(self: &Arc<Self>, spirit_id: SpiritId) -> Turn {
        let mut turn = Turn {
            turns: Arc::clone(self),
            spirit_id,
            permit: None,
        };
        let semaphore = {
            let mut spirits = self.0.lock();
            let semaphore = spirits
                .entry(spirit_id)
                .or_insert_with(|| Arc::new(Semaphore::new(EDITS_MAX)));
            Arc::clone(semaphore)
        };
        turn.permit = semaphore.acquire_owned().await.ok();
        turn
    }
}

impl Drop for Turn {
    /// Ends the turn, and forgets the spirit if no other edit has a turn or waits for one.
    fn drop(&mut self) {
        let mut spirits = self.turns.0.lock();
        self.permit = None;
        if spirits
            .get(&self.spirit_id)
            .is_some_and(|semaphore| Arc::strong_count(semaphore) == 1)
        {
            spirits.remove(&self.spirit_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;
    use uuid::Uuid;

    use super::*;

    #[tokio::test]
    async fn turns_are_limited_for_each_spirit_and_forgotten_after_the_last_edit() {
        let turns = Arc::new(Turns::default());
        let [spirit_id, other] = [1, 2].map(|n| SpiritId(Uuid::from_u128(n)));
        let mut held = vec![turns.take(spirit_id).await, turns.take(spirit_id).await];
        let wait = Duration::from_millis(50);
        assert!(timeout(wait, turns.take(spirit_id)).await.is_err());
        drop(turns.take(other).await);
        held.pop();
        assert!(timeout(wait, turns.take(spirit_id)).await.is_ok());
        assert_eq!(turns.0.lock().len(), 1);
        held.clear();
        assert!(turns.0.lock().is_empty());
    }
}
