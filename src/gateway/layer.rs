//! The outermost layer: translates requests of Connect and gRPC-Web to gRPC, and their replies back.

use std::error::Error;
use std::fmt::Display;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::{BoxFuture, Either, FutureExt as _, MapOk, TryFutureExt as _};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method as HttpMethod, Request, Response};
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::Status;
use tonic::body::Body;
use tonic_web::GrpcWebLayer;
use tower::{Layer, Service};

use super::connect::{Call, translate_reply, translate_request};
use super::messages::TranslatedCall;
use super::schema::{self, Method};
use crate::grpc::Translated;

/// The error of a body.
pub type BoxError = Box<dyn Error + Send + Sync>;

const GRPC: &[u8] = b"application/grpc";
/// The content types of gRPC-Web; the texts are base64.
const GRPC_WEB: [&[u8]; 4] = [
    b"application/grpc-web",
    b"application/grpc-web+proto",
    b"application/grpc-web-text",
    b"application/grpc-web-text+proto",
];

/// Translates Connect and gRPC-Web. All other requests pass unchanged.
#[derive(Clone, Copy, Debug)]
pub struct GatewayLayer {
    /// Maximum size of a request message in bytes.
    pub message_bytes_max: usize,
}

/// The service of a [`GatewayLayer`].
#[derive(Clone, Debug)]
pub struct GatewayService<S> {
    inner: S,
    message_bytes_max: usize,
}

impl<S> Layer<S> for GatewayLayer {
    type Service = GatewayService<S>;

    fn layer(&self, inner: S) -> GatewayService<S> {
        GatewayService {
            inner,
            message_bytes_max: self.message_bytes_max,
        }
    }
}

/// The protocol of a request.
enum Protocol {
    /// gRPC, or no protocol that the server speaks.
    Other,
    GrpcWeb(&'static Method),
    Connect(Call),
}

impl Protocol {
    fn of<B>(request: &Request<B>) -> Self {
        let content_type = request.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        if content_type == Some(GRPC) {
            return Self::Other;
        }
        if let Some(call) = Call::of(request) {
            return Self::Connect(call);
        }
        let is_web = content_type.is_some_and(|content_type| GRPC_WEB.contains(&content_type));
        match schema::method(request.uri().path()) {
            Some(method) if is_web && request.method() == HttpMethod::POST => Self::GrpcWeb(method),
            _ => Self::Other,
        }
    }
}

/// Passes the reply to a gRPC request on.
type PassOn<F, B> = MapOk<F, fn(Response<B>) -> Response<GatewayBody<B>>>;

impl<S, B> Service<Request<Body>> for GatewayService<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError> + Display,
{
    type Response = Response<GatewayBody<B>>;
    type Error = S::Error;
    type Future = Either<PassOn<S::Future, B>, BoxFuture<'static, Result<Self::Response, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        match Protocol::of(&request) {
            Protocol::Other => {
                let pass_on: fn(Response<B>) -> Response<GatewayBody<B>> =
                    |response| response.map(|inner| GatewayBody::Grpc { inner });
                Either::Left(self.inner.call(request).map_ok(pass_on))
            }
            Protocol::GrpcWeb(method) => {
                request.extensions_mut().insert(Translated);
                request.extensions_mut().insert(TranslatedCall {
                    method,
                    is_json: false,
                    error: None,
                });
                let reply = GrpcWebLayer::new().layer(&mut self.inner).call(request);
                Either::Right(reply.map_ok(translated).boxed())
            }
            Protocol::Connect(call) => {
                let request = translate_request(call, request, self.message_bytes_max);
                let reply = self.inner.call(request);
                Either::Right(Box::pin(async move {
                    Ok(translated(translate_reply(call, reply.await?).await))
                }))
            }
        }
    }
}

fn translated<B>(response: Response<Body>) -> Response<GatewayBody<B>> {
    response.map(|body| GatewayBody::Translated { body })
}

pin_project! {
    /// The body of a reply: that of the inner service, or a translated one.
    #[project = GatewayBodyProjection]
    pub enum GatewayBody<B> {
        Grpc { #[pin] inner: B },
        Translated { body: Body },
    }
}

impl<B> Default for GatewayBody<B> {
    fn default() -> Self {
        Self::Translated { body: Body::empty() }
    }
}

impl<B> http_body::Body for GatewayBody<B>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project() {
            GatewayBodyProjection::Grpc { inner } => inner.poll_frame(cx).map_err(Into::into),
            GatewayBodyProjection::Translated { body } => {
                let polled: Poll<Option<Result<_, Status>>> = Pin::new(body).poll_frame(cx);
                polled.map_err(Into::into)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Grpc { inner } => inner.is_end_stream(),
            Self::Translated { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Grpc { inner } => inner.size_hint(),
            Self::Translated { body } => body.size_hint(),
        }
    }
}
