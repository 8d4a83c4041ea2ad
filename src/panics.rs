//! Contains panics: a panic is a bug and ends the call or task step in which it happens, while other work
//! continues.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::sleep;

/// Pause before work that panicked is restarted, so that work that always panics does not keep a thread busy.
const RESTART_PAUSE: Duration = Duration::from_millis(100);

/// The work panicked. The panic hook has logged the source location.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the work panicked; the log contains the place")]
pub struct Panicked;

/// Runs the work and catches a panic. State that the work changed before it panicked must still be valid, or must
/// not be used again.
pub async fn caught<T>(work: impl Future<Output = T>) -> Result<T, Panicked> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|_| Panicked)
}

/// Runs work that lasts as long as the process, and restarts it whenever it panics. The state that it keeps must be
/// valid after a panic at any point. A request that is lost in a panic is dropped, so its sender must treat a dropped
/// reply as a failure.
pub async fn keep_running<T>(name: &'static str, mut work: impl AsyncFnMut() -> T) -> T {
    loop {
        if let Ok(output) = caught(work()).await {
            return output;
        }
        tracing::error!(name, "a task panicked and restarts");
        sleep(RESTART_PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::{mpsc, oneshot};

    use super::*;

    #[tokio::test]
    async fn work_that_panics_continues_with_the_next_request_and_drops_the_lost_one() {
        let (requests, mut queue) = mpsc::unbounded_channel::<(u8, oneshot::Sender<u8>)>();
        let send = |divisor| {
            let (reply, quotient) = oneshot::channel();
            requests.send((divisor, reply)).expect("the queue is open");
            quotient
        };
        let quotients = [send(1), send(0), send(2), send(0), send(5)];
        drop(requests);
        let work = keep_running("division", async || {
            let mut done = 0;
            while let Some((divisor, reply)) = queue.recv().await {
                reply.send(10 / divisor).expect("the receiver waits");
                done += 1;
            }
            done
        });
        assert_eq!(work.await, 1, "since the last restart");
        let mut results = Vec::new();
        for quotient in quotients {
            results.push(quotient.await.ok());
        }
        assert_eq!(results, [Some(10), None, Some(5), None, Some(2)]);
    }

    #[tokio::test]
    async fn a_panic_is_caught_at_any_poll() {
        assert_eq!(caught(async { 1 }).await, Ok(1));
        let late = async {
            tokio::task::yield_now().await;
            panic!("late")
        };
        assert_eq!(caught::<u8>(late).await, Err(Panicked));
    }
}
