//! Translates Connect requests to gRPC.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, TE};
use http::{HeaderMap, HeaderName, HeaderValue, Method as HttpMethod, Request, Uri};
use http_body::Frame;
use tonic::Status;
use tonic::body::Body;

use super::{
    ACCEPT_ENCODING, CONNECT_ACCEPT_ENCODING, CONNECT_CONTENT_ENCODING, CONNECT_PROTOCOL_VERSION,
    CONNECT_TIMEOUT_MS, CONTENT_ENCODING, Call, Shape,
};
use crate::gateway::frames::{self, COMPRESSED};
use crate::gateway::gzip::IDENTITY;
use crate::gateway::messages::{GRPC_ACCEPT_ENCODING, GRPC_ENCODING, TranslatedCall};
use crate::grpc::{MessageError, Translated};

const GRPC_TIMEOUT: &str = "grpc-timeout";
/// Longest timeout that gRPC can express in milliseconds; longer ones are sent in seconds.
const GRPC_TIMEOUT_MAX: u64 = 99_999_999;
/// Digits of the longest timeout that Connect allows.
const TIMEOUT_DIGITS_MAX: usize = 10;
/// URL-safe base64 with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Returns whether the query of a GET asks for messages in Protobuf.
pub(super) fn asks_for_proto(uri: &Uri) -> bool {
    query(uri, "encoding").as_deref() == Some("proto")
}

/// Translates a request. The innermost layer answers a bad one with its error, so that the call is authenticated,
/// counted and logged as others are. `message_bytes_max` is the maximum size of its message.
pub(in crate::gateway) fn translate_request(
    call: Call,
    mut request: Request<Body>,
    message_bytes_max: usize,
) -> Request<Body> {
    let error = translate_headers(call, &mut request).err();
    let is_compressed = request.headers().contains_key(GRPC_ENCODING);
    request.extensions_mut().insert(Translated);
    request.extensions_mut().insert(TranslatedCall {
        method: call.method,
        is_json: call.is_json,
        error,
    });
    match call.shape {
        Shape::Stream => request,
        Shape::Get => {
            *request.method_mut() = HttpMethod::POST;
            let message = message_of_query(request.uri());
            let message = message.and_then(|message| framed(is_compressed, &message));
            set_message(request, message)
        }
        Shape::Unary => request.map(|body| {
            Body::new(FramedBody {
                inner: body,
                flags: if is_compressed { COMPRESSED } else { 0 },
                message: VecDeque::new(),
                length: 0,
                length_max: message_bytes_max,
                phase: Phase::Receiving,
            })
        }),
    }
}

/// Replaces Connect's headers by those of gRPC.
fn translate_headers(call: Call, request: &mut Request<Body>) -> Result<(), MessageError> {
    let compression = query(request.uri(), "compression").filter(|_| call.shape == Shape::Get);
    let has_encoding = !matches!(
        query(request.uri(), "encoding").as_deref(),
        Some("json" | "proto")
    );
    let headers = request.headers_mut();
    let [sent, accepted] = match call.shape {
        Shape::Stream => [CONNECT_CONTENT_ENCODING, CONNECT_ACCEPT_ENCODING],
        Shape::Unary | Shape::Get => [CONTENT_ENCODING, ACCEPT_ENCODING],
    };
    let sent = headers.remove(sent).filter(|name| name != IDENTITY);
    let sent = match compression {
        Some(name) => HeaderValue::from_str(&name).ok().filter(|name| name != IDENTITY),
        None => sent,
    };
    let accepted = headers.remove(accepted);
    let version = headers.remove(CONNECT_PROTOCOL_VERSION);
    let timeout = headers.remove(CONNECT_TIMEOUT_MS);
    for name in [CONTENT_ENCODING, ACCEPT_ENCODING, GRPC_TIMEOUT] {
        headers.remove(name);
    }
    headers.remove(CONTENT_LENGTH);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    set(headers, GRPC_ENCODING, sent);
    set(headers, GRPC_ACCEPT_ENCODING, accepted);
    let timeout = timeout.map(|timeout| grpc_timeout(&timeout)).transpose()?;
    set(headers, GRPC_TIMEOUT, timeout);
    if version.is_some_and(|version| version != "1") {
        return Err(bad_header(CONNECT_PROTOCOL_VERSION, "must be 1"));
    }
    if call.shape == Shape::Get && has_encoding {
        return Err(bad_header(
            "encoding",
            "must be json or proto, as a parameter of the query",
        ));
    }
    Ok(())
}

fn set(headers: &mut HeaderMap, name: &'static str, value: Option<HeaderValue>) {
    match value {
        Some(value) => drop(headers.insert(HeaderName::from_static(name), value)),
        None => drop(headers.remove(name)),
    }
}

fn bad_header(name: &str, rule: &str) -> MessageError {
    MessageError::Field(name.to_owned(), rule.to_owned())
}

/// Converts a timeout in milliseconds to that of gRPC.
fn grpc_timeout(timeout: &HeaderValue) -> Result<HeaderValue, MessageError> {
    let text = timeout.to_str().unwrap_or_default();
    let is_valid =
        (1..=TIMEOUT_DIGITS_MAX).contains(&text.len()) && text.bytes().all(|digit| digit.is_ascii_digit());
    let millis: u64 = match text.parse() {
        Ok(millis) if is_valid => millis,
        _ => {
            return Err(bad_header(
                CONNECT_TIMEOUT_MS,
                "must be a number of milliseconds with at most 10 digits",
            ));
        }
    };
    let timeout = if millis > GRPC_TIMEOUT_MAX {
        format!("{}S", millis / 1_000)
    } else {
        format!("{millis}m")
    };
    Ok(HeaderValue::try_from(timeout).expect("digits and a letter"))
}

/// Returns a parameter of the query of a GET.
fn query(uri: &Uri, name: &str) -> Option<String> {
    let mut parameters = form_urlencoded::parse(uri.query()?.as_bytes());
    let (_, value) = parameters.find(|(key, _)| key == name)?;
    Some(value.into_owned())
}

fn message_of_query(uri: &Uri) -> Result<Bytes, MessageError> {
    let Some(message) = query(uri, "message") else {
        return Err(bad_header("message", "must be a parameter of the query"));
    };
    if query(uri, "base64").as_deref() != Some("1") {
        return Ok(message.into());
    }
    match BASE64.decode(message) {
        Ok(bytes) => Ok(bytes.into()),
        Err(_) => Err(bad_header(
            "message",
            "must be in URL-safe base64, because base64=1 is given",
        )),
    }
}

fn framed(is_compressed: bool, message: &Bytes) -> Result<Bytes, MessageError> {
    let prefix = frames::prefix(u8::from(is_compressed), message.len())?;
    Ok([&prefix, &message[..]].concat().into())
}

/// Sets the framed message of a GET, or the error of a bad one.
fn set_message(mut request: Request<Body>, message: Result<Bytes, MessageError>) -> Request<Body> {
    match message {
        Ok(message) => request.map(|_| Body::new(axum::body::Body::from(message))),
        Err(error) => {
            if let Some(call) = request.extensions_mut().get_mut::<TranslatedCall>() {
                call.error.get_or_insert(error);
            }
            request
        }
    }
}

/// A body of one message, which is framed when all of it has been received.
struct FramedBody {
    inner: Body,
    flags: u8,
    message: VecDeque<Bytes>,
    length: usize,
    length_max: usize,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Receiving,
    Sending,
    Ended,
}

impl http_body::Body for FramedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        while this.phase == Phase::Receiving {
            match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    this.length += data.len();
                    if this.length > this.length_max {
                        this.phase = Phase::Ended;
                        let error = MessageError::TooLarge(this.length_max);
                        return Poll::Ready(Some(Err(error.into())));
                    }
                    this.message.push_back(data);
                }
                Some(Err(error)) => {
                    this.phase = Phase::Ended;
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    this.phase = Phase::Sending;
                    let prefix = frames::prefix(this.flags, this.length)?;
                    return Poll::Ready(Some(Ok(Frame::data(Bytes::copy_from_slice(&prefix)))));
                }
            }
        }
        match this.message.pop_front() {
            Some(data) if this.phase == Phase::Sending => Poll::Ready(Some(Ok(Frame::data(data)))),
            _ => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self.phase {
            Phase::Receiving => false,
            Phase::Sending => self.message.is_empty(),
            Phase::Ended => true,
        }
    }
}
