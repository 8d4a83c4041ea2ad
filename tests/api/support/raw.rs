//! gRPC over a bare HTTP/2 connection, for requests that a well-behaved client never sends and replies that
//! it hides.

use std::net::SocketAddr;

use h2::RecvStream;
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use prost::Message;
use prost::bytes::Bytes;
use tokio::net::TcpStream;
use tonic::Status;

/// Bytes that HTTP/2 counts for a header in addition to its name and value.
const HEADER_OVERHEAD: usize = 32;

/// A connection that sends bodies as they are given.
pub struct RawClient {
    addr: SocketAddr,
    requests: SendRequest<Bytes>,
}

/// The end of a call: all its headers and trailers.
pub struct End(pub HeaderMap);

impl RawClient {
    pub async fn connect(addr: SocketAddr) -> Self {
        let socket = TcpStream::connect(addr).await.unwrap();
        let (requests, connection) = h2::client::handshake(socket).await.unwrap();
        tokio::spawn(connection);
        Self { addr, requests }
    }

    /// Sends a call; returns the reply's headers and its unread body.
    pub async fn open(&self, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> (HeaderMap, RecvStream) {
        let mut request = Request::post(format!("http://{}{path}", self.addr))
            .header("te", "trailers")
            .header("content-type", "application/grpc");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut requests = self.requests.clone().ready().await.unwrap();
        let (response, mut sent) = requests.send_request(request.body(()).unwrap(), false).unwrap();
        // Fails if the call was answered before its message was sent; then the reply holds the status.
        let send_error = sent.send_data(body.into(), true).err();
        let (head, body) = response.await.unwrap().into_parts();
        assert!(
            send_error.is_none() || head.headers.contains_key("grpc-status"),
            "{send_error:?}"
        );
        (head.headers, body)
    }

    /// Sends a call and reads its reply to the end.
    pub async fn call(&self, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> End {
        let (head, body) = self.open(path, headers, body).await;
        read_to_end(head, body).await
    }
}

/// Reads a reply to its end, discarding the body.
pub async fn read_to_end(mut headers: HeaderMap, mut body: RecvStream) -> End {
    while let Some(data) = body.data().await {
        let bytes = data.unwrap().len();
        body.flow_control().release_capacity(bytes).unwrap();
    }
    headers.extend(body.trailers().await.unwrap().unwrap_or_default());
    End(headers)
}

impl End {
    /// The status of the call, as an error.
    pub fn error<T>(&self) -> Result<T, Status> {
        Err(Status::from_header_map(&self.0).expect("a call ends with a status"))
    }

    /// Size of headers and trailers in bytes, as HTTP/2 counts it.
    pub fn metadata_bytes(&self) -> usize {
        self.0
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len() + HEADER_OVERHEAD)
            .sum()
    }
}

/// Frames a message as gRPC does.
pub fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap();
    [&[0], &length.to_be_bytes()[..], message].concat()
}

/// Encodes and frames a message.
pub fn encoded(message: &impl Message) -> Vec<u8> {
    framed(&message.encode_to_vec())
}
