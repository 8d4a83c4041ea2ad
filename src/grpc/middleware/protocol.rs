//! Rejects requests that are not calls before they are executed: unknown paths, methods other than POST, other
//! content types and, on a server without API keys, requests of foreign web pages. Calls over other protocols arrive here
//! as gRPC, marked as [`Translated`].

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::Status;
use tower::{Layer, Service};

use super::methods;
use super::origin::OriginRules;
use crate::grpc::Keyring;
use crate::grpc::status::ApiError;

const GRPC: &str = "application/grpc";
const GRPC_STATUS: &str = "grpc-status";
/// The header of a rejection that names the content types of calls.
const ACCEPT_POST: HeaderName = HeaderName::from_static("accept-post");
const CONTENT_TYPES: &str = "application/grpc, application/grpc-web, application/grpc-web-text, application/json, \
    application/proto, application/connect+json, application/connect+proto";

/// Marks a gRPC request that was translated from another protocol.
#[derive(Clone, Copy, Debug)]
pub struct Translated;

/// Passes gRPC requests on and rejects all others.
#[derive(Clone)]
pub struct ProtocolLayer {
    /// Determines whether the server has API keys.
    pub keyring: Keyring,
    /// The rules for origins and hosts, which are checked while the server has no API keys.
    pub origins: OriginRules,
}

/// The service of a [`ProtocolLayer`].
#[derive(Clone)]
pub struct ProtocolService<S> {
    inner: S,
    layer: ProtocolLayer,
}

impl<S> Layer<S> for ProtocolLayer {
    type Service = ProtocolService<S>;

    fn layer(&self, inner: S) -> ProtocolService<S> {
        ProtocolService {
            inner,
            layer: self.clone(),
        }
    }
}

impl<S, I, O> Service<Request<I>> for ProtocolService<S>
where
    S: Service<Request<I>, Response = Response<O>>,
    S::Future: Send + 'static,
    O: Body<Data = Bytes> + Default,
{
    type Response = Response<TextOr<O>>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<I>) -> Self::Future {
        let is_grpc = is_grpc(request.headers());
        if let Err(rejection) = self.layer.check(&request, is_grpc) {
            return Box::pin(async move { Ok(rejection.into_response(is_grpc)) });
        }
        let call = self.inner.call(request);
        Box::pin(async move { Ok(call.await?.map(|inner| TextOr::Inner { inner })) })
    }
}

impl ProtocolLayer {
    fn check<B>(&self, request: &Request<B>, is_grpc: bool) -> Result<(), Rejection> {
        let is_translated = || request.extensions().get::<Translated>().is_some();
        if !self.keyring.is_keyed() {
            let checked = self.origins.check(request, is_grpc && !is_translated());
            checked.map_err(|foreign| Rejection::Foreign(foreign.to_string()))?;
        }
        let is_post = request.method() == Method::POST;
        match (methods::exists(request.uri().path()), is_post, is_grpc) {
            (true, true, true) if request.version() < Version::HTTP_2 && !is_translated() => {
                Err(Rejection::HttpVersion)
            }
            (true, true, true) => Ok(()),
            (false, true, true) => Err(Rejection::UnknownMethod),
            (false, _, _) => Err(Rejection::NotFound),
            (true, false, _) => Err(Rejection::MethodNotAllowed),
            (true, true, false) => Err(Rejection::UnsupportedMediaType),
        }
    }
}

/// Returns whether the content type is gRPC with protobuf messages.
fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(content_type) = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case(GRPC) || essence.eq_ignore_ascii_case("application/grpc+proto")
}

/// The reason for which a request is rejected.
#[derive(Debug)]
enum Rejection {
    Foreign(String),
    UnknownMethod,
    HttpVersion,
    NotFound,
    MethodNotAllowed,
    UnsupportedMediaType,
}

impl Rejection {
    /// Returns the reply: a gRPC status if the request is gRPC, otherwise a text.
    fn into_response<O: Default>(self, is_grpc: bool) -> Response<TextOr<O>> {
        let (status, text) = match &self {
            Self::Foreign(text) if is_grpc => return grpc_response(ApiError::OriginNotAllowed(text.clone())),
            Self::UnknownMethod => return grpc_response(ApiError::UnknownMethod),
            Self::Foreign(text) => (StatusCode::FORBIDDEN, text.clone()),
            Self::HttpVersion => (
                StatusCode::HTTP_VERSION_NOT_SUPPORTED,
                "gRPC needs HTTP/2; over HTTP/1.1 use Connect or gRPC-Web".to_owned(),
            ),
            Self::NotFound => (
                StatusCode::NOT_FOUND,
                "this server has no such path; it serves gRPC, gRPC-Web and Connect".to_owned(),
            ),
            Self::MethodNotAllowed => (
                StatusCode::METHOD_NOT_ALLOWED,
                "calls use the method POST; GET is for unary calls that only read".to_owned(),
            ),
            Self::UnsupportedMediaType => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                format!(
                    "send one of these content types: {CONTENT_TYPES}; application/connect+… is for streams, \
                     application/json and application/proto are for all other calls"
                ),
            ),
        };
        let mut response = Response::new(TextOr::Text {
            text: Some(Bytes::from(text + "\n")),
        });
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        let error = match self {
            Self::Foreign(text) => ApiError::OriginNotAllowed(text),
            _ => ApiError::UnknownMethod,
        };
        headers.insert(GRPC_STATUS, HeaderValue::from(Status::from(error).code() as i32));
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(ALLOW, HeaderValue::from_static("POST"));
        }
        if status == StatusCode::UNSUPPORTED_MEDIA_TYPE {
            headers.insert(ACCEPT_POST, HeaderValue::from_static(CONTENT_TYPES));
        }
        response
    }
}

fn grpc_response<O: Default>(error: ApiError) -> Response<TextOr<O>> {
    Status::from(error)
        .into_http::<O>()
        .map(|inner| TextOr::Inner { inner })
}

pin_project! {
    /// The body of a reply: that of the inner service, or a text.
    #[project = TextOrProjection]
    pub enum TextOr<B> {
        Text { text: Option<Bytes> },
        Inner { #[pin] inner: B },
    }
}

impl<B: Default> Default for TextOr<B> {
    fn default() -> Self {
        Self::Inner { inner: B::default() }
    }
}

impl<B: Body<Data = Bytes>> Body for TextOr<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project() {
            TextOrProjection::Text { text } => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            TextOrProjection::Inner { inner } => inner.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text { text } => text.is_none(),
            Self::Inner { inner } => inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Text { text } => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Self::Inner { inner } => inner.size_hint(),
        }
    }
}
