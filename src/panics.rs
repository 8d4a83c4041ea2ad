//! A panic is a bug, and the end of the piece of work that met it. What goes on after that piece, or beside
//! it, is kept running.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::sleep;

/// Before work that panicked starts again, so that one that always panics does not keep a thread busy.
const RESTART_PAUSE: Duration = Duration::from_millis(100);

/// The work panicked; the log has told where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it panicked; the log has told where")]
pub struct Panicked;

/// Does the work. What it changed when it panicked must be fit for use, or is not to be used again.
pub async fn caught<T>(work: impl Future<Output = T>) -> Result<T, Panicked> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|_| Panicked)
}

/// Does work that goes on for as long as the process does, and starts it again whenever it panics. What it
/// holds between two steps must be fit for that at any time; whoever waits for a piece that was lost has to
/// learn so by its being dropped.
pub async fn keep_running<T>(name: &'static str, mut work: impl AsyncFnMut() -> T) -> T {
    loop {
        if let Ok(output) = caught(work()).await {
            return output;
        }
        tracing::error!(name, "it panicked, and starts again");
        sleep(RESTART_PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::{mpsc, oneshot};

    use super::*;

    #[tokio::test]
    async fn work_that_panics_goes_on_with_what_waits_and_those_who_lost_theirs_learn_of_it() {
        let (pieces, mut waiting) = mpsc::unbounded_channel::<(u8, oneshot::Sender<u8>)>();
        let ask = |number| {
            let (reply, answer) = oneshot::channel();
            pieces.send((number, reply)).expect("somebody works");
            answer
        };
        let answers = [ask(1), ask(0), ask(2), ask(0), ask(5)];
        drop(pieces);
        let work = keep_running("division", async || {
            let mut done = 0;
            while let Some((number, reply)) = waiting.recv().await {
                reply.send(10 / number).expect("somebody waits");
                done += 1;
            }
            done
        });
        assert_eq!(work.await, 1, "since it last started");
        let mut got = Vec::new();
        for answer in answers {
            got.push(answer.await.ok());
        }
        assert_eq!(got, [Some(10), None, Some(5), None, Some(2)]);
    }

    #[tokio::test]
    async fn a_panic_is_caught_wherever_it_is() {
        assert_eq!(caught(async { 1 }).await, Ok(1));
        let late = async {
            tokio::task::yield_now().await;
            panic!("late")
        };
        assert_eq!(caught::<u8>(late).await, Err(Panicked));
    }
}
