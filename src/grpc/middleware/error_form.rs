//! Converts errors that tonic itself raises to the form of this service's errors.

use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use tonic::Status;
use tower::{Layer, Service};

use crate::grpc::status::translate;

/// Converts tonic's own errors, such as that for an undecodable message.
#[derive(Clone, Copy, Debug)]
pub struct ErrorLayer {
    /// Maximum size of a request message in bytes, which the error for a larger message names.
    pub message_bytes_max: usize,
}

/// The service of an [`ErrorLayer`].
#[derive(Clone, Debug)]
pub struct ErrorService<S> {
    inner: S,
    message_bytes_max: usize,
}

impl<S> Layer<S> for ErrorLayer {
    type Service = ErrorService<S>;

    fn layer(&self, inner: S) -> ErrorService<S> {
        ErrorService {
            inner,
            message_bytes_max: self.message_bytes_max,
        }
    }
}

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
            Ok(translated.map_or(response, Status::into_http))
        })
    }
}
