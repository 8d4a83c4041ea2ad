//! The innermost layer: converts the messages of a call between JSON and Protobuf, and decompresses and compresses
//! them.

use std::convert::Infallible;
use std::future::ready;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures_util::future::{BoxFuture, Either, FutureExt as _};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use prost_reflect::MessageDescriptor;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::frames::{self, COMPRESSED};
use super::gzip::{self, COMPRESSED_BYTES_MIN, GZIP, IDENTITY};
use super::json::{json_of_message, message_of_json};
use super::schema::{Method, Streaming};
use crate::grpc::MessageError;

pub(super) const GRPC_ENCODING: &str = "grpc-encoding";
pub(super) const GRPC_ACCEPT_ENCODING: &str = "grpc-accept-encoding";

/// Bytes of converted messages that are passed on together, so that a compressed stream cannot take much memory.
const CHUNK_BYTES: usize = 32 * 1024;

/// Converts the messages of calls. It must be inside the layer that charges replies, which then counts the bytes that
/// are sent.
#[derive(Clone, Copy, Debug)]
pub struct MessageLayer {
    /// Maximum size of a request message in bytes, before and after it is decompressed.
    pub message_bytes_max: usize,
}

/// The service of a [`MessageLayer`].
#[derive(Clone, Debug)]
pub struct MessageService<S> {
    inner: S,
    message_bytes_max: usize,
}

/// An extension of requests that were translated to gRPC: the form of their messages.
#[derive(Clone)]
pub(super) struct TranslatedCall {
    pub(super) method: &'static Method,
    pub(super) is_json: bool,
    /// The error with which the call is answered.
    pub(super) error: Option<MessageError>,
}

impl<S> Layer<S> for MessageLayer {
    type Service = MessageService<S>;

    fn layer(&self, inner: S) -> MessageService<S> {
        MessageService {
            inner,
            message_bytes_max: self.message_bytes_max,
        }
    }
}

impl<S> Service<Request<Body>> for MessageService<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, BoxFuture<'static, Result<Response<Body>, Infallible>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let conversion = match Conversion::of(&request, self.message_bytes_max) {
            Ok(Some(conversion)) => conversion,
            Ok(None) => return Either::Left(self.inner.call(request)),
            Err(error) => return Either::Right(Box::pin(ready(Ok(refusal(error))))),
        };
        request.headers_mut().remove(GRPC_ENCODING);
        let reply = conversion.reply;
        let request = request.map(|body| conversion.request.convert(body));
        Either::Right(Box::pin(
            self.inner
                .call(request)
                .map(|response| response.map(|response| reply.convert(response))),
        ))
    }
}

/// Returns the reply that consists of an error.
fn refusal(error: MessageError) -> Response<Body> {
    let mut response = Status::from(error).into_http();
    let known = HeaderValue::from_static(GZIP);
    response.headers_mut().insert(GRPC_ACCEPT_ENCODING, known);
    response
}

/// The conversion of the messages of a call.
struct Conversion {
    request: RequestForm,
    reply: ReplyForm,
}

/// The form of request messages.
struct RequestForm {
    is_gzip: bool,
    json: Option<MessageDescriptor>,
    bytes_max: usize,
}

/// The form of reply messages.
struct ReplyForm {
    accepts_gzip: bool,
    json: Option<MessageDescriptor>,
}

impl Conversion {
    /// Returns `None` if the messages stay as they are.
    fn of<B>(request: &Request<B>, bytes_max: usize) -> Result<Option<Self>, MessageError> {
        let headers = request.headers();
        let call = request.extensions().get::<TranslatedCall>();
        if let Some(call) = call {
            if let Some(error) = &call.error {
                return Err(error.clone());
            }
            if call.method.streaming == Streaming::Client {
                return Err(MessageError::NeedsGrpc);
            }
        }
        let is_gzip = match headers.get(GRPC_ENCODING).map(HeaderValue::as_bytes) {
            None => false,
            Some(name) if name == IDENTITY.as_bytes() => false,
            Some(name) if name == GZIP.as_bytes() => true,
            Some(name) => {
                let name = String::from_utf8_lossy(name).into_owned();
                return Err(MessageError::UnknownCompression(name));
            }
        };
        // Some gRPC clients accept gzip in every call, which would make compression the rule. Their wish shows in the
        // encoding of the request.
        let accepts_gzip = (call.is_some() || is_gzip) && accepts_gzip(headers);
        let json = call.filter(|call| call.is_json).map(|call| call.method);
        if !is_gzip && !accepts_gzip && json.is_none() {
            return Ok(None);
        }
        Ok(Some(Self {
            request: RequestForm {
                is_gzip,
                json: json.map(|method| method.request.clone()),
                bytes_max,
            },
            reply: ReplyForm {
                accepts_gzip,
                json: json.map(|method| method.reply.clone()),
            },
        }))
    }
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers
        .get(GRPC_ACCEPT_ENCODING)
        .and_then(|names| names.to_str().ok());
    accepted.is_some_and(|names| names.split(',').any(|name| name.trim() == GZIP))
}

impl RequestForm {
    fn convert(self, body: Body) -> Body {
        if !self.is_gzip && self.json.is_none() {
            return body;
        }
        let bytes_max = self.bytes_max;
        Body::new(ConvertedBody::new(body, bytes_max, move |flags, message| {
            Ok((0, self.message(flags, message)?))
        }))
    }

    fn message(&self, flags: u8, mut message: Bytes) -> Result<Bytes, MessageError> {
        match flags {
            0 => {}
            COMPRESSED if self.is_gzip => message = gzip::decompress(&message, self.bytes_max)?,
            COMPRESSED => {
                let cause = "the message is marked as compressed, but no header names the compression";
                return Err(MessageError::Undecodable(cause.to_owned()));
            }
            _ => return Err(MessageError::Undecodable(format!("unknown flags {flags}"))),
        }
        match &self.json {
            Some(descriptor) => message_of_json(descriptor, &message),
            None => Ok(message),
        }
    }
}

impl ReplyForm {
    fn convert(self, mut response: Response<Body>) -> Response<Body> {
        if response.headers().contains_key(Status::GRPC_STATUS) {
            return response; // an error, without a message
        }
        if self.accepts_gzip {
            let name = HeaderValue::from_static(GZIP);
            response.headers_mut().insert(GRPC_ENCODING, name);
        }
        response.map(|body| {
            Body::new(ConvertedBody::new(body, usize::MAX, move |flags, message| {
                self.message(flags, message)
            }))
        })
    }

    fn message(&self, flags: u8, mut message: Bytes) -> Result<(u8, Bytes), MessageError> {
        if let Some(descriptor) = &self.json {
            message = json_of_message(descriptor, &message)?.into();
        }
        if self.accepts_gzip
            && message.len() >= COMPRESSED_BYTES_MIN
            && let Some(compressed) = gzip::compress(&message)
        {
            return Ok((COMPRESSED, compressed));
        }
        Ok((flags, message))
    }
}

/// A body of gRPC messages, each of which a function converts.
struct ConvertedBody<F> {
    inner: Body,
    /// Received bytes that are not a whole message yet.
    received: BytesMut,
    message_bytes_max: usize,
    convert: F,
    has_ended: bool,
}

impl<F> ConvertedBody<F>
where
    F: FnMut(u8, Bytes) -> Result<(u8, Bytes), MessageError>,
{
    fn new(inner: Body, message_bytes_max: usize, convert: F) -> Self {
        Self {
            inner,
            received: BytesMut::new(),
            message_bytes_max,
            convert,
            has_ended: false,
        }
    }

    /// Converts whole messages among the received bytes, up to [`CHUNK_BYTES`] and the rest of a message.
    fn converted(&mut self) -> Result<Option<Bytes>, MessageError> {
        let mut converted = BytesMut::new();
        while converted.len() < CHUNK_BYTES
            && let Some((flags, message)) = frames::take(&mut self.received, self.message_bytes_max)?
        {
            let (flags, message) = (self.convert)(flags, message)?;
            converted.reserve(frames::PREFIX_BYTES + message.len());
            converted.extend_from_slice(&frames::prefix(flags, message.len())?);
            converted.extend_from_slice(&message);
        }
        Ok((!converted.is_empty()).then(|| converted.freeze()))
    }

    fn fail(&mut self, error: MessageError) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.has_ended = true;
        Poll::Ready(Some(Err(error.into())))
    }
}

impl<F> http_body::Body for ConvertedBody<F>
where
    F: FnMut(u8, Bytes) -> Result<(u8, Bytes), MessageError> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if this.has_ended {
            return Poll::Ready(None);
        }
        loop {
            match this.converted() {
                Ok(None) => {}
                Ok(Some(converted)) => return Poll::Ready(Some(Ok(Frame::data(converted)))),
                Err(error) => return this.fail(error),
            }
            let frame = match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                None if !this.received.is_empty() => {
                    let cause = "the body ends in the middle of a message";
                    return this.fail(MessageError::Undecodable(cause.to_owned()));
                }
                ended => return Poll::Ready(ended),
            };
            match frame.into_data() {
                Ok(data) => this.received.extend_from_slice(&data),
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended || (self.received.is_empty() && self.inner.is_end_stream())
    }
}
