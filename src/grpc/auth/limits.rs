//! How much one key may ask of this server.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::KeyLimits;
use crate::grpc::status::ApiError;

/// What one key has left of its bounds.
pub(super) struct Allowance {
    calls: Option<Bucket>,
    streams: Option<Arc<Semaphore>>,
}

/// Fills up steadily to one second's worth.
struct Bucket {
    per_second: f64,
    level: Mutex<Level>,
}

struct Level {
    calls: f64,
    at: Instant,
}

impl Allowance {
    pub(super) fn new(limits: KeyLimits) -> Self {
        Self {
            calls: limits.calls_per_second.map(|rate| Bucket::full(f64::from(rate))),
            streams: limits
                .streams
                .map(|count| Arc::new(Semaphore::new(usize::try_from(count).unwrap_or(usize::MAX)))),
        }
    }

    pub(super) fn take_call(&self) -> Result<(), ApiError> {
        match &self.calls {
            Some(calls) => calls.take(Instant::now()).map_err(ApiError::TooManyCalls),
            None => Ok(()),
        }
    }

    /// A place for a stream, as long as it lasts.
    pub(super) fn take_stream(&self) -> Result<Option<OwnedSemaphorePermit>, ApiError> {
        match &self.streams {
            Some(streams) => match Arc::clone(streams).try_acquire_owned() {
                Ok(place) => Ok(Some(place)),
                Err(_) => Err(ApiError::TooManyStreams),
            },
            None => Ok(None),
        }
    }
}

impl Bucket {
    fn full(per_second: f64) -> Self {
        let level = Level {
            calls: per_second,
            at: Instant::now(),
        };
        Self {
            per_second,
            level: Mutex::new(level),
        }
    }

    /// Takes a call, or says after how long there will be one.
    fn take(&self, now: Instant) -> Result<(), Duration> {
        // Both fields are always sound, so a poisoned lock holds a sound level.
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        let gained = now.saturating_duration_since(level.at).as_secs_f64() * self.per_second;
        level.calls = (level.calls + gained).min(self.per_second);
        level.at = now;
        if level.calls < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - level.calls) / self.per_second));
        }
        level.calls -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Bucket;

    #[test]
    fn a_bucket_gives_its_rate_and_says_when_there_is_more() {
        let start = Instant::now();
        let bucket = Bucket::full(4.0);
        let at = |millis| start + Duration::from_millis(millis) + Duration::from_secs(1);
        let taken = |millis| (0..100).take_while(|_| bucket.take(at(millis)).is_ok()).count();
        assert_eq!(taken(0), 4, "full after a pause");
        assert_eq!(bucket.take(at(0)), Err(Duration::from_millis(250)));
        assert_eq!(taken(250), 1);
        assert_eq!(taken(1_000), 3);
        assert_eq!(taken(60_000), 4, "never more than a second's worth");
    }
}
