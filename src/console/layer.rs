//! The layer that answers requests for the console's files.

use std::future::{Ready, ready};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::{Either, MapOk, TryFutureExt as _};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use tower::{Layer, Service};

use super::files;
use crate::config::Console;
use crate::grpc::{Keyring, OriginRules, TextOr};

/// Answers GET and HEAD for the files of the console, and passes every other request on.
#[derive(Clone)]
pub struct ConsoleLayer {
    /// Whether the console is served.
    pub console: Console,
    /// Determines whether the server has API keys.
    pub keyring: Keyring,
    /// The rules for origins and hosts, which are checked while the server has no API keys.
    pub origins: OriginRules,
}

/// The service of a [`ConsoleLayer`].
#[derive(Clone)]
pub struct ConsoleService<S> {
    inner: S,
    layer: ConsoleLayer,
}

impl<S> Layer<S> for ConsoleLayer {
    type Service = ConsoleService<S>;

    fn layer(&self, inner: S) -> ConsoleService<S> {
        ConsoleService {
            inner,
            layer: self.clone(),
        }
    }
}

/// Passes the reply of the inner service on.
type PassOn<F, B> = MapOk<F, fn(Response<B>) -> Response<TextOr<B>>>;

impl<S, I, B> Service<Request<I>> for ConsoleService<S>
where
    S: Service<Request<I>, Response = Response<B>>,
{
    type Response = Response<TextOr<B>>;
    type Error = S::Error;
    type Future = Either<PassOn<S::Future, B>, Ready<Result<Self::Response, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<I>) -> Self::Future {
        if let Some(reply) = self.layer.reply(&request) {
            return Either::Right(ready(Ok(reply.map(|text| TextOr::Text { text }))));
        }
        let pass_on: fn(Response<B>) -> Response<TextOr<B>> =
            |response| response.map(|inner| TextOr::Inner { inner });
        Either::Left(self.inner.call(request).map_ok(pass_on))
    }
}

impl ConsoleLayer {
    /// Returns the reply if the request is for a file of the console.
    fn reply<I>(&self, request: &Request<I>) -> Option<Response<Option<Bytes>>> {
        let is_head = request.method() == Method::HEAD;
        if self.console == Console::Off || !(is_head || request.method() == Method::GET) {
            return None;
        }
        let file = files::find(request.uri().path())?;
        if !self.keyring.is_keyed()
            && let Err(foreign) = self.origins.check_page(request)
        {
            return Some(forbidden(&foreign.to_string(), is_head));
        }
        Some(file.reply(request.headers(), is_head))
    }
}

fn forbidden(text: &str, is_head: bool) -> Response<Option<Bytes>> {
    let body = (!is_head).then(|| Bytes::from(format!("{text}\n")));
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::FORBIDDEN;
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}
