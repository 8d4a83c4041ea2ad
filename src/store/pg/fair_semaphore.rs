//! A semaphore that shares its permits fairly among tenants: while tenants wait, a tenant that holds half of the
//! permits or more is served last. A tenant alone may hold all permits.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// On whose behalf a statement runs: the API key of a call, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tenant(pub u64);

tokio::task_local! {
    static CURRENT: Tenant;
}

impl Tenant {
    /// Runs `work` on behalf of the tenant.
    pub async fn scope<F: Future>(self, work: F) -> F::Output {
        CURRENT.scope(self, work).await
    }

    /// Returns the tenant of the running code.
    pub(in crate::store) fn current() -> Self {
        CURRENT.try_with(|tenant| *tenant).unwrap_or_default()
    }
}

/// A fair semaphore. Cheap to clone.
#[derive(Clone)]
pub(super) struct FairSemaphore(Arc<Inner>);

struct Inner {
    max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Permits in use by tenant; tenants without any are absent.
    held: HashMap<Tenant, usize>,
    in_use: usize,
    /// In the order of arrival.
    waiting: VecDeque<Waiter>,
}

struct Waiter {
    tenant: Tenant,
    granted: oneshot::Sender<FairPermit>,
}

/// A permit; dropping it gives it to the next waiter.
pub(super) struct FairPermit {
    semaphore: FairSemaphore,
    tenant: Tenant,
}

impl FairSemaphore {
    pub(super) fn new(max: usize) -> Self {
        Self(Arc::new(Inner {
            max,
            state: Mutex::default(),
        }))
    }

    /// Returns the number of permits in use.
    pub(super) fn in_use(&self) -> usize {
        self.0.state.lock().in_use
    }

    /// Returns a permit if one is free.
    pub(super) fn try_acquire(&self, tenant: Tenant) -> Option<FairPermit> {
        let mut state = self.0.state.lock();
        (state.in_use < self.0.max).then(|| self.grant(&mut state, tenant))
    }

    /// Waits for a permit.
    pub(super) async fn acquire(&self, tenant: Tenant) -> FairPermit {
        loop {
            let (granted, permit) = oneshot::channel();
            {
                let mut state = self.0.state.lock();
                if state.in_use < self.0.max {
                    return self.grant(&mut state, tenant);
                }
                state.waiting.retain(|waiter| !waiter.granted.is_closed());
                state.waiting.push_back(Waiter { tenant, granted });
            }
            if let Ok(permit) = permit.await {
                return permit;
            }
        }
    }

    fn grant(&self, state: &mut State, tenant: Tenant) -> FairPermit {
        state.in_use += 1;
        *state.held.entry(tenant).or_default() += 1;
        FairPermit {
            semaphore: self.clone(),
            tenant,
        }
    }

    /// Takes a permit back and passes it on.
    fn release(&self, tenant: Tenant) {
        let (granted, permit) = {
            let mut state = self.0.state.lock();
            state.give_back(tenant);
            let Some(waiter) = state.take_next(self.0.max) else {
                return;
            };
            (waiter.granted, self.grant(&mut state, waiter.tenant))
        };
        // If the waiter has gone, the permit is dropped outside the lock and passed on.
        drop(granted.send(permit));
    }
}

impl State {
    fn give_back(&mut self, tenant: Tenant) {
        self.in_use -= 1;
        if let Some(held) = self.held.get_mut(&tenant) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&tenant);
            }
        }
    }

    /// Takes the first waiter whose tenant holds less than half of the permits, else the first one.
    fn take_next(&mut self, max: usize) -> Option<Waiter> {
        self.waiting.retain(|waiter| !waiter.granted.is_closed());
        let below_half = |waiter: &Waiter| {
            let held = self.held.get(&waiter.tenant).copied().unwrap_or(0);
            held * 2 < max
        };
        let next = self.waiting.iter().position(below_half).unwrap_or(0);
        self.waiting.remove(next)
    }
}

impl Drop for FairPermit {
    fn drop(&mut self) {
        self.semaphore.release(self.tenant);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;

    use super::*;

    const GREEDY: Tenant = Tenant(1);
    const MODEST: Tenant = Tenant(2);

    #[tokio::test]
    async fn a_tenant_alone_may_hold_all_permits() {
        let semaphore = FairSemaphore::new(4);
        let held: Vec<_> = (0..4).map(|_| semaphore.try_acquire(GREEDY)).collect();
        assert!(held.iter().all(Option::is_some));
        assert!(semaphore.try_acquire(MODEST).is_none());
        drop(held);
        assert_eq!(semaphore.in_use(), 0);
    }

    #[tokio::test]
    async fn a_waiting_tenant_is_served_before_one_that_holds_half() {
        let semaphore = FairSemaphore::new(4);
        let mut held: Vec<_> = (0..4).map(|_| semaphore.try_acquire(GREEDY)).collect();
        let greedy: Vec<_> = (0..8)
            .map(|_| {
                let semaphore = semaphore.clone();
                tokio::spawn(async move { semaphore.acquire(GREEDY).await })
            })
            .collect();
        tokio::task::yield_now().await;
        let mut modest = Box::pin(semaphore.acquire(MODEST));
        assert!(modest.as_mut().now_or_never().is_none());
        held.pop();
        let permit = tokio::time::timeout(Duration::from_secs(5), modest).await;
        assert!(permit.is_ok(), "the next free permit goes to the waiting tenant");
        assert!(greedy.iter().all(|task| !task.is_finished()));
        drop((permit, held));
        for task in greedy {
            drop(task.await);
        }
        assert_eq!(semaphore.in_use(), 0);
    }

    #[tokio::test]
    async fn a_waiter_that_goes_away_passes_its_permit_on() {
        let semaphore = FairSemaphore::new(1);
        let held = semaphore.try_acquire(GREEDY);
        let mut gone = Box::pin(semaphore.acquire(MODEST));
        assert!(gone.as_mut().now_or_never().is_none());
        let mut next = Box::pin(semaphore.acquire(MODEST));
        assert!(next.as_mut().now_or_never().is_none());
        drop(gone);
        drop(held);
        assert!(next.now_or_never().is_some());
        assert_eq!(semaphore.in_use(), 0);
    }
}
