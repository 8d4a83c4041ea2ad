//! The Connect protocol: unary calls and server streams as ordinary HTTP requests.
//!
//! [`request`] translates requests, [`reply`] translates replies, [`error`] writes errors as JSON.

mod error;
mod reply;
mod request;

pub(super) use reply::translate_reply;
pub(super) use request::translate_request;

use http::header::CONTENT_TYPE;
use http::{Method as HttpMethod, Request};

use super::schema::{self, Method, Streaming};

const CONTENT_ENCODING: &str = "content-encoding";
const ACCEPT_ENCODING: &str = "accept-encoding";
const CONNECT_CONTENT_ENCODING: &str = "connect-content-encoding";
const CONNECT_ACCEPT_ENCODING: &str = "connect-accept-encoding";
const CONNECT_PROTOCOL_VERSION: &str = "connect-protocol-version";
const CONNECT_TIMEOUT_MS: &str = "connect-timeout-ms";

/// The content type of unary requests and replies, by whether messages are JSON.
const fn unary_content_type(is_json: bool) -> &'static str {
    if is_json {
        "application/json"
    } else {
        "application/proto"
    }
}

/// The content type of streams, by whether messages are JSON.
const fn stream_content_type(is_json: bool) -> &'static str {
    if is_json {
        "application/connect+json"
    } else {
        "application/connect+proto"
    }
}

/// A call over Connect.
#[derive(Clone, Copy)]
pub(super) struct Call {
    method: &'static Method,
    shape: Shape,
    is_json: bool,
}

/// The shape of a request and its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// One message as the body of a POST, one message as the body of the reply.
    Unary,
    /// One message in the query of a GET, one message as the body of the reply.
    Get,
    /// Bodies with framed messages.
    Stream,
}

impl Call {
    /// Returns `None` if the request is not a call over Connect, or has not the content type of its method.
    pub(super) fn of<B>(request: &Request<B>) -> Option<Self> {
        let method = schema::method(request.uri().path())?;
        if request.method() == HttpMethod::GET {
            let is_safe = method.is_read && method.streaming == Streaming::None;
            return is_safe.then(|| Self {
                method,
                shape: Shape::Get,
                is_json: !request::asks_for_proto(request.uri()),
            });
        }
        if request.method() != HttpMethod::POST {
            return None;
        }
        let content_type = request.headers().get(CONTENT_TYPE)?.to_str().ok()?;
        let (shape, is_json) = shape_of(content_type)?;
        let is_fitting = match method.streaming {
            Streaming::None => shape == Shape::Unary,
            Streaming::Server => shape == Shape::Stream,
            Streaming::Client => true, // answered with an error in either shape
        };
        is_fitting.then_some(Self {
            method,
            shape,
            is_json,
        })
    }

    /// Returns the content type of replies.
    const fn content_type(self) -> &'static str {
        match self.shape {
            Shape::Unary | Shape::Get => unary_content_type(self.is_json),
            Shape::Stream => stream_content_type(self.is_json),
        }
    }
}

/// Returns the shape of a request with this content type, and whether its messages are JSON.
fn shape_of(content_type: &str) -> Option<(Shape, bool)> {
    let (essence, parameters) = content_type.split_once(';').unwrap_or((content_type, ""));
    let has_other_parameters =
        !parameters.is_empty() && !parameters.trim().eq_ignore_ascii_case("charset=utf-8");
    let essence = essence.trim();
    if has_other_parameters {
        return None;
    }
    [
        (Shape::Unary, unary_content_type(true), true),
        (Shape::Unary, unary_content_type(false), false),
        (Shape::Stream, stream_content_type(true), true),
        (Shape::Stream, stream_content_type(false), false),
    ]
    .into_iter()
    .find(|(_, name, _)| essence.eq_ignore_ascii_case(name))
    .map(|(shape, _, is_json)| (shape, is_json))
}
