//! Repeats calls while the server is away or overloaded.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Attempts before the last error is final.
const ATTEMPTS_MAX: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// The failures since the last success. The pauses between attempts double and take half a minute in all.
#[derive(Debug, Default)]
pub(super) struct Retry {
    failures: u32,
}

impl Retry {
    /// Records a success.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Returns the pause before the next attempt, or the status if a further attempt cannot succeed or the attempts
    /// are used up.
    pub(super) fn pause(&mut self, status: Status) -> Result<Duration, Status> {
        self.failures += 1;
        if !is_transient(&status) || self.failures == ATTEMPTS_MAX {
            return Err(status);
        }
        Ok(FIRST_PAUSE * 2_u32.pow(self.failures - 1))
    }
}

/// Makes a call, and again after each failure that may pass.
pub(super) async fn retried<T>(mut call: impl AsyncFnMut() -> Result<T, Status>) -> Result<T, Status> {
    let mut retry = Retry::default();
    loop {
        match call().await {
            Ok(reply) => return Ok(reply),
            Err(status) => tokio::time::sleep(retry.pause(status)?).await,
        }
    }
}

/// Returns true if a call that failed with this status may succeed later. An error without a reason comes from the
/// transport.
pub(super) fn is_transient(status: &Status) -> bool {
    let is_retryable = matches!(
        status.code(),
        Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded
    );
    is_retryable || (status.code() != Code::Unimplemented && status.get_details_error_info().is_none())
}
