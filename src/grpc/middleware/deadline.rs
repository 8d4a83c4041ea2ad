//! Enforces the time limits of calls: the caller's deadline and the server's own limit.

use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::Status;
use tower::{Layer, Service};

use super::body::AbortableBody;
use crate::grpc::status::ApiError;

const GRPC_TIMEOUT: &str = "grpc-timeout";

/// Ends a call, streams included, when the caller's `grpc-timeout` expires. Also ends a call that is not
/// answered within the server's own time limit; a stream counts as answered when it starts.
#[derive(Clone, Copy, Debug)]
pub struct DeadlineLayer {
    /// The server's own time limit.
    pub answer_within: Duration,
}

/// The service of a [`DeadlineLayer`].
#[derive(Clone, Debug)]
pub struct DeadlineService<S> {
    inner: S,
    answer_within: Duration,
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = DeadlineService<S>;

    fn layer(&self, inner: S) -> DeadlineService<S> {
        DeadlineService {
            inner,
            answer_within: self.answer_within,
        }
    }
}

impl<S, I, O> Service<Request<I>> for DeadlineService<S>
where
    S: Service<Request<I>, Response = Response<O>>,
    S::Future: Send + 'static,
    O: Default,
{
    type Response = Response<AbortableBody<O>>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<I>) -> Self::Future {
        let now = Instant::now();
        let deadline = timeout_of(request.headers()).and_then(|timeout| now.checked_add(timeout));
        if deadline.is_some_and(|deadline| deadline <= now) {
            return Box::pin(async { Ok(Status::from(ApiError::Deadline).into_http()) });
        }
        let limit = now + self.answer_within;
        let call = self.inner.call(request);
        Box::pin(async move {
            let answer_by = deadline.map_or(limit, |deadline| deadline.min(limit));
            let Ok(response) = timeout_at(answer_by, call).await else {
                return Ok(Status::from(ApiError::Deadline).into_http());
            };
            let response = response?;
            let Some(deadline) = deadline else {
                return Ok(response.map(AbortableBody::new));
            };
            let expired = async move {
                sleep_until(deadline).await;
                ApiError::Deadline
            };
            Ok(response.map(|body| AbortableBody::abort_on(body, expired)))
        })
    }
}

/// Parses the caller's timeout: at most 8 digits and a unit, as the gRPC protocol defines it.
fn timeout_of(headers: &HeaderMap) -> Option<Duration> {
    const DIGITS_MAX: usize = 8;
    let text = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > DIGITS_MAX {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3_600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}
