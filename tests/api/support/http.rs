//! A plain HTTP client, over HTTP/1.1 and HTTP/2, for Connect and gRPC-Web.

use std::net::SocketAddr;

use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::bytes::Bytes;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::harness::PATIENCE;

pub const EVENTS: &str = "/elephantasm.events.v1.EventService";
pub const SPIRITS: &str = "/elephantasm.events.v1.SpiritService";
pub const JSON: (&str, &str) = ("content-type", "application/json");

/// The version of HTTP that a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Http {
    One,
    Two,
}

/// A client that opens a connection for each request.
#[derive(Clone, Copy, Debug)]
pub struct HttpClient {
    pub addr: SocketAddr,
    pub http: Http,
}

/// A reply, read to its end.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl HttpClient {
    pub fn new(addr: SocketAddr, http: Http) -> Self {
        Self { addr, http }
    }

    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        let response = self.open(method, path, headers, body).await;
        let (head, body) = response.into_parts();
        let body = timeout(PATIENCE, body.collect())
            .await
            .expect("the reply ends in time");
        Reply {
            status: head.status,
            headers: head.headers,
            body: body.unwrap().to_bytes(),
        }
    }

    /// Sends a request and returns its reply with an unread body.
    pub async fn open(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Response<Incoming> {
        let socket = TcpStream::connect(self.addr).await.unwrap();
        let request = self.request(method, path, headers, body);
        let response = timeout(PATIENCE, send_over(socket, self.http, request)).await;
        response.expect("a reply in time")
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Request<Full<Bytes>> {
        let uri = match self.http {
            Http::One => path.to_owned(),
            Http::Two => format!("http://{}{path}", self.addr),
        };
        let mut request = Request::builder().method(method).uri(uri);
        if self.http == Http::One && !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", self.addr.to_string());
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Full::new(body.into())).unwrap()
    }

    /// Makes a unary call over Connect with JSON.
    pub async fn call(&self, path: &str, request: &Value) -> Reply {
        self.send(Method::POST, path, &[JSON], request.to_string()).await
    }

    /// Creates a spirit and returns its id.
    pub async fn spirit(&self) -> String {
        let reply = self
            .call(
                &format!("{SPIRITS}/CreateSpirit"),
                &serde_json::json!({"name": "Ada"}),
            )
            .await;
        reply.json()["spirit"]["id"].as_str().unwrap().to_owned()
    }

    /// Creates an event in the session `s` and returns it.
    pub async fn event(&self, spirit_id: &str, content: &str) -> Value {
        let request = serde_json::json!({
            "spiritId": spirit_id, "eventType": "message.in", "sessionId": "s", "content": content
        });
        let reply = self.call(&format!("{EVENTS}/CreateEvent"), &request).await;
        reply.json()["event"].clone()
    }
}

/// Sends a request over an open connection.
pub async fn send_over(
    socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    http: Http,
    request: Request<Full<Bytes>>,
) -> Response<Incoming> {
    let socket = TokioIo::new(socket);
    match http {
        Http::One => {
            let (mut requests, connection) = http1::handshake(socket).await.unwrap();
            tokio::spawn(connection);
            requests.send_request(request).await.unwrap()
        }
        Http::Two => {
            let (mut requests, connection) = http2::handshake(TokioExecutor::new(), socket).await.unwrap();
            tokio::spawn(connection);
            requests.send_request(request).await.unwrap()
        }
    }
}

impl Reply {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Code and reason of a Connect error.
    #[track_caller]
    pub fn error(&self) -> (String, String) {
        error_of(&self.json())
    }
}

/// Code and reason of a Connect error.
#[track_caller]
pub fn error_of(error: &Value) -> (String, String) {
    let details = error["details"]
        .as_array()
        .unwrap_or_else(|| panic!("details: {error}"));
    let info = details
        .iter()
        .find(|detail| detail["type"] == "google.rpc.ErrorInfo")
        .unwrap_or_else(|| panic!("ErrorInfo: {error}"));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&error["code"]), text(&info["debug"]["reason"]))
}

/// Splits a body of framed messages into their flags and bytes.
pub fn frames_of(mut body: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut frames = Vec::new();
    while let [flags, a, b, c, d, rest @ ..] = body {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        frames.push((*flags, rest[..length].to_vec()));
        body = &rest[length..];
    }
    assert!(body.is_empty(), "an incomplete frame");
    frames
}
