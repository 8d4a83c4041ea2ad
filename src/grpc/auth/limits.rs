//! Limits of each API key on this server: calls per second and open streams.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::KeyLimits;
use crate::grpc::status::ApiError;

/// Enforces the limits of one API key.
pub(super) struct KeyLimiter {
    calls: Option<TokenBucket>,
    streams: Option<Arc<Semaphore>>,
}

/// A token bucket with the capacity of one second.
struct TokenBucket {
    per_second: f64,
    state: Mutex<BucketState>,
}

struct BucketState {
    tokens: f64,
    updated_at: Instant,
}

impl KeyLimiter {
    pub(super) fn new(limits: KeyLimits) -> Self {
        Self {
            calls: limits
                .calls_per_second
                .map(|rate| TokenBucket::full(f64::from(rate))),
            streams: limits
                .streams
                .map(|count| Arc::new(Semaphore::new(usize::try_from(count).unwrap_or(usize::MAX)))),
        }
    }

    /// Counts a call. Fails if it exceeds the rate limit.
    pub(super) fn check_call(&self) -> Result<(), ApiError> {
        match &self.calls {
            Some(bucket) => bucket.take(Instant::now()).map_err(ApiError::TooManyCalls),
            None => Ok(()),
        }
    }

    /// Returns the permit for a stream, or `None` if streams are not limited. Fails if the limit is reached.
    pub(super) fn acquire_stream(&self) -> Result<Option<OwnedSemaphorePermit>, ApiError> {
        match &self.streams {
            Some(streams) => match Arc::clone(streams).try_acquire_owned() {
                Ok(permit) => Ok(Some(permit)),
                Err(_) => Err(ApiError::TooManyStreams),
            },
            None => Ok(None),
        }
    }
}

impl TokenBucket {
    fn full(per_second: f64) -> Self {
        let state = BucketState {
            tokens: per_second,
            updated_at: Instant::now(),
        };
        Self {
            per_second,
            state: Mutex::new(state),
        }
    }

    /// Takes a token, or returns the time until the next token.
    fn take(&self, now: Instant) -> Result<(), Duration> {
        let mut state = self.state.lock();
        let gained = now.saturating_duration_since(state.updated_at).as_secs_f64() * self.per_second;
        state.tokens = (state.tokens + gained).min(self.per_second);
        state.updated_at = now;
        if state.tokens < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - state.tokens) / self.per_second));
        }
        state.tokens -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::TokenBucket;

    #[test]
    fn a_bucket_allows_its_rate_and_returns_the_time_until_the_next_token() {
        let start = Instant::now();
        let bucket = TokenBucket::full(4.0);
        let at = |millis| start + Duration::from_millis(millis) + Duration::from_secs(1);
        let taken = |millis| (0..100).take_while(|_| bucket.take(at(millis)).is_ok()).count();
        assert_eq!(taken(0), 4, "full after a pause");
        assert_eq!(bucket.take(at(0)), Err(Duration::from_millis(250)));
        assert_eq!(taken(250), 1);
        assert_eq!(taken(1_000), 3);
        assert_eq!(taken(60_000), 4, "never more than a second's worth");
    }
}
