//! Translates gRPC replies to Connect.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, response};
use http_body::Frame;
use tonic::body::Body;
use tonic::{Code, Status};

use super::error::{end_of_stream, unary_error};
use super::{CONNECT_CONTENT_ENCODING, CONTENT_ENCODING, Call, Shape, unary_content_type};
use crate::gateway::frames::{self, COMPRESSED, PREFIX_BYTES};
use crate::gateway::layer::BoxError;
use crate::gateway::messages::{GRPC_ACCEPT_ENCODING, GRPC_ENCODING};
use crate::grpc::MessageError;

/// The flag of the last message of a stream.
const END_OF_STREAM: u8 = 2;

/// Translates a reply. Waits for its first message, because the status of a unary reply comes first.
pub(in crate::gateway) async fn translate_reply<B>(call: Call, response: Response<B>) -> Response<Body>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let (mut head, body) = response.into_parts();
    if head.status != StatusCode::OK {
        return Response::from_parts(head, Body::new(body));
    }
    let status = Status::from_header_map(&head.headers);
    let encoding = remove_grpc_headers(&mut head.headers);
    let content_type = HeaderValue::from_static(call.content_type());
    head.headers.insert(CONTENT_TYPE, content_type);
    let body = GrpcBody(Box::pin(body));
    if call.shape == Shape::Stream {
        if let Some(encoding) = encoding {
            let name = HeaderName::from_static(CONNECT_CONTENT_ENCODING);
            head.headers.insert(name, encoding);
        }
        return Response::from_parts(
            head,
            Body::new(StreamBody {
                body,
                status,
                has_ended: false,
            }),
        );
    }
    if call.shape == Shape::Get {
        let private = HeaderValue::from_static("private, no-store");
        head.headers.insert(CACHE_CONTROL, private);
    }
    match status {
        Some(status) => error_reply(head, &status),
        None => unary_reply(head, body, encoding).await,
    }
}

/// Removes the headers of gRPC, and returns the encoding of compressed messages.
fn remove_grpc_headers(headers: &mut HeaderMap) -> Option<HeaderValue> {
    for name in [
        Status::GRPC_STATUS,
        Status::GRPC_MESSAGE,
        Status::GRPC_STATUS_DETAILS,
    ] {
        headers.remove(name);
    }
    headers.remove(GRPC_ACCEPT_ENCODING);
    headers.remove(GRPC_ENCODING)
}

fn error_reply(mut head: response::Parts, status: &Status) -> Response<Body> {
    let (http_status, json) = unary_error(status);
    head.status = http_status;
    let content_type = HeaderValue::from_static(unary_content_type(true));
    head.headers.insert(CONTENT_TYPE, content_type);
    Response::from_parts(head, Body::new(json))
}

async fn unary_reply<B>(
    mut head: response::Parts,
    mut body: GrpcBody<B>,
    encoding: Option<HeaderValue>,
) -> Response<Body>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let mut first = match poll_fn(|cx| body.poll_event(cx)).await {
        Event::Data(data) => data,
        Event::End(status, _) => return error_reply(head, &status),
    };
    let Some((flags, length)) = frames::parse_prefix(&first) else {
        return error_reply(head, &truncated());
    };
    first.advance(PREFIX_BYTES);
    if flags == COMPRESSED
        && let Some(encoding) = encoding
    {
        let name = HeaderName::from_static(CONTENT_ENCODING);
        head.headers.insert(name, encoding);
    }
    head.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    let held = Some(first);
    Response::from_parts(
        head,
        Body::new(UnaryBody {
            body,
            held,
            has_ended: false,
        }),
    )
}

/// The status of a reply that ends too early.
fn truncated() -> Status {
    MessageError::Unwritable("it ends without a status".to_owned()).into()
}

/// The body of a gRPC reply.
struct GrpcBody<B>(Pin<Box<B>>);

/// The next part of the body of a gRPC reply.
enum Event {
    Data(Bytes),
    /// The status and the trailers with which the reply ends.
    End(Status, HeaderMap),
}

impl<B> GrpcBody<B>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let event = match ready!(self.0.as_mut().poll_frame(cx)) {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => Event::Data(data),
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    let status = Status::from_header_map(&trailers).unwrap_or_else(truncated);
                    Event::End(status, trailers)
                }
            },
            Some(Err(error)) => Event::End(Status::from_error(error.into()), HeaderMap::new()),
            None => Event::End(truncated(), HeaderMap::new()),
        };
        Poll::Ready(event)
    }
}

/// The body of a unary reply. It holds the last data back until the status has been read, because HTTP/1.1 drops a body
/// that has sent its whole length, and a call without a status counts as cancelled.
struct UnaryBody<B> {
    body: GrpcBody<B>,
    held: Option<Bytes>,
    has_ended: bool,
}

impl<B> http_body::Body for UnaryBody<B>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        while !self.has_ended {
            match ready!(self.body.poll_event(cx)) {
                Event::Data(data) => {
                    if let Some(previous) = self.held.replace(data).filter(|data| !data.is_empty()) {
                        return Poll::Ready(Some(Ok(Frame::data(previous))));
                    }
                }
                Event::End(status, _) => {
                    self.has_ended = true;
                    if status.code() != Code::Ok {
                        return Poll::Ready(Some(Err(status)));
                    }
                }
            }
        }
        let last = self.held.take().filter(|data| !data.is_empty());
        Poll::Ready(last.map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended && self.held.is_none()
    }
}

/// The body of a stream, which ends with a message that holds the status.
struct StreamBody<B> {
    body: GrpcBody<B>,
    /// The status of a call that failed before its stream began.
    status: Option<Status>,
    has_ended: bool,
}

impl<B> http_body::Body for StreamBody<B>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let event = match self.status.take() {
            Some(status) => Event::End(status, HeaderMap::new()),
            None => ready!(self.body.poll_event(cx)),
        };
        let data = match event {
            Event::Data(data) => data,
            Event::End(status, trailers) => {
                self.has_ended = true;
                let json = end_of_stream(&status, &trailers);
                let prefix = frames::prefix(END_OF_STREAM, json.len())?;
                [&prefix, json.as_bytes()].concat().into()
            }
        };
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended
    }
}
