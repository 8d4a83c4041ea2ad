//! Drains the server: finishes the calls in progress, then the queued writes.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use crate::store::Store;

/// Minimum time limit for closing the store, which applies if calls have used up the drain limit.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Lets calls in progress finish within the limit, then commits the queued writes. Writes that are not
/// committed in time are abandoned; their calls have ended without an acknowledgement.
pub(super) async fn drain(
    server: JoinHandle<Result<(), tonic::transport::Error>>,
    store: &Store,
    limit: Duration,
) {
    let deadline = Instant::now() + limit;
    let abort = server.abort_handle();
    match timeout_at(deadline, server).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => tracing::error!(%error, "serving failed while draining"),
        Ok(Err(error)) => tracing::error!(%error, "the server's task failed"),
        Err(_) => {
            tracing::warn!(
                limit_seconds = limit.as_secs(),
                "drain limit reached, aborting the remaining calls"
            );
            abort.abort();
        }
    }
    let deadline = deadline.max(Instant::now() + CLOSE_TIMEOUT);
    if timeout_at(deadline, store.close()).await.is_err() {
        tracing::warn!("queued events were not stored in time; none of them was acknowledged");
    }
}
