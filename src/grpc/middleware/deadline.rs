//! What holds for every call: errors have one form, deadlines are kept, nothing runs before the
//! database is ready.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tower::{Layer, Service};

use super::body::EndingBody;
use crate::grpc::status::{ApiError, translate};

/// Path prefix of this service's RPCs; health and reflection are not gated.
const RPC_PREFIX: &str = "/elephantasm.";
const GRPC_TIMEOUT: &str = "grpc-timeout";

/// Gives tonic's own errors the form of the contract.
#[derive(Clone, Copy, Debug)]
pub struct ErrorLayer {
    /// The largest message accepted, for the error's text.
    pub message_bytes_max: usize,
}

/// Answers UNAVAILABLE until the database is migrated, and once the server ends.
#[derive(Clone, Debug)]
pub struct ReadyLayer {
    /// Set once the database is migrated.
    pub ready: Arc<AtomicBool>,
    /// Cancelled when the server ends. A client that does not heed HTTP/2's GOAWAY would go on calling.
    pub shutdown: CancellationToken,
}

/// Ends calls, streams included, when the caller's `grpc-timeout` has run out, and calls that are not
/// answered within a time of the server's own. A stream is answered when it begins.
#[derive(Clone, Copy, Debug)]
pub struct DeadlineLayer {
    /// The server's own limit.
    pub answer_within: Duration,
}

macro_rules! layer {
    ($layer:ty, $service:ident { $($field:ident: $type:ty),* }) => {
        /// The service that the layer makes.
        #[derive(Clone, Debug)]
        pub struct $service<S> {
            inner: S,
            $($field: $type,)*
        }

        impl<S> Layer<S> for $layer {
            type Service = $service<S>;

            fn layer(&self, inner: S) -> $service<S> {
                $service { inner, $($field: self.$field.clone(),)* }
            }
        }
    };
}

layer!(
    ErrorLayer,
    ErrorService {
        message_bytes_max: usize
    }
);
layer!(ReadyLayer, ReadyService { ready: Arc<AtomicBool>, shutdown: CancellationToken });
layer!(
    DeadlineLayer,
    DeadlineService {
        answer_within: Duration
    }
);

impl<S, I, O> Service<Request<I>> for ErrorService<S>
where
    S: Service<Request<I>, Response = Response<O>>,
    S::Future: Send + 'static,
    O: Default,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<I>) -> Self::Future {
        let call = self.inner.call(request);
        let message_bytes_max = self.message_bytes_max;
        Box::pin(async move {
            let response = call.await?;
            let translated = Status::from_header_map(response.headers())
                .and_then(|status| translate(&status, message_bytes_max));
            Ok(match translated {
                Some(status) => status.into_http(),
                None => response,
            })
        })
    }
}

impl<S, I, O> Service<Request<I>> for ReadyService<S>
where
    S: Service<Request<I>, Response = Response<O>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    O: Default + Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<I>) -> Self::Future {
        let is_ours = request.uri().path().starts_with(RPC_PREFIX);
        let refused = if is_ours && self.shutdown.is_cancelled() {
            ApiError::ShuttingDown
        } else if is_ours && !self.ready.load(Ordering::Acquire) {
            ApiError::Starting
        } else {
            return Box::pin(self.inner.call(request));
        };
        Box::pin(async { Ok(Status::from(refused).into_http()) })
    }
}

impl<S, I, O> Service<Request<I>> for DeadlineService<S>
where
    S: Service<Request<I>, Response = Response<O>>,
    S::Future: Send + 'static,
    O: Default,
{
    type Response = Response<EndingBody<O>>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<I>) -> Self::Future {
        let now = Instant::now();
        let callers = timeout_of(request.headers()).and_then(|timeout| now.checked_add(timeout));
        let own = now + self.answer_within;
        let call = self.inner.call(request);
        Box::pin(async move {
            match timeout_at(callers.map_or(own, |callers| callers.min(own)), call).await {
                Ok(response) => {
                    let response = response?;
                    let Some(deadline) = callers else {
                        return Ok(response.map(EndingBody::unlimited));
                    };
                    let end = async move {
                        sleep_until(deadline).await;
                        ApiError::Deadline
                    };
                    Ok(response.map(|body| EndingBody::until(body, end)))
                }
                Err(_) => Ok(Status::from(ApiError::Deadline).into_http()),
            }
        })
    }
}

/// The caller's time limit: at most 8 digits and a unit, as the gRPC protocol has it.
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
