//! An HTTP/2 client that exposes every frame, which ordinary clients hide from their callers. Implements only
//! the part of HTTP/2 that the tests of connection shutdown need.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::harness::PATIENCE;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const ACK: u8 = 0x1;

/// Frame type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Data,
    Headers,
    Reset,
    Settings,
    Ping,
    GoAway,
    Other(u8),
}

#[derive(Debug)]
pub struct Frame {
    pub kind: Kind,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// Content of a GOAWAY frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GoAway {
    pub last_stream: u32,
    pub error: u32,
}

/// A connection that exposes every frame.
pub struct Frames(TcpStream);

impl Frames {
    /// Connects and completes the HTTP/2 handshake.
    pub async fn connect(addr: SocketAddr) -> Self {
        let mut frames = Self(TcpStream::connect(addr).await.unwrap());
        frames.0.write_all(PREFACE).await.unwrap();
        frames.send(4, 0, 0, &[]).await;
        let first = frames.next().await.unwrap();
        assert_eq!(first.kind, Kind::Settings);
        frames.send(4, ACK, 0, &[]).await;
        frames
    }

    /// Starts a call and sends its single message.
    pub async fn call(&mut self, stream: u32, path: &str, message: &[u8]) {
        let fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "test"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        ];
        let mut headers = Vec::new();
        for (name, value) in fields {
            headers.push(0); // a literal field without indexing, name and value without Huffman coding
            for text in [name, value] {
                let length = u8::try_from(text.len()).unwrap();
                assert!(length < 127, "the length fits into its 7-bit prefix");
                headers.push(length);
                headers.extend(text.as_bytes());
            }
        }
        self.send(1, END_HEADERS, stream, &headers).await;
        self.send(0, END_STREAM, stream, message).await;
    }

    /// Acknowledges a ping.
    pub async fn pong(&mut self, ping: &Frame) {
        self.send(6, ACK, 0, &ping.payload).await;
    }

    /// The next frame; `None` once the server has closed the connection.
    pub async fn next(&mut self) -> Option<Frame> {
        let read = timeout(PATIENCE, self.read()).await;
        read.expect("a frame or the end of the connection within the time limit")
    }

    async fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.0.read_exact(&mut payload).await.ok()?;
        Some(Frame {
            kind: match kind {
                0 => Kind::Data,
                1 => Kind::Headers,
                3 => Kind::Reset,
                4 => Kind::Settings,
                6 => Kind::Ping,
                7 => Kind::GoAway,
                other => Kind::Other(other),
            },
            flags,
            stream: u32::from_be_bytes(stream),
            payload,
        })
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        self.0.write_all(&[&head, payload].concat()).await.unwrap();
    }
}

impl Frame {
    /// Returns true if the frame is a ping that needs an acknowledgement.
    pub fn is_ping_request(&self) -> bool {
        self.kind == Kind::Ping && self.flags & ACK == 0
    }

    /// Returns true if the frame ends this stream.
    pub fn ends_stream(&self, stream: u32) -> bool {
        let ends = match self.kind {
            Kind::Data | Kind::Headers => self.flags & END_STREAM != 0,
            Kind::Reset => true,
            _ => false,
        };
        self.stream == stream && ends
    }

    /// Content of the frame, if it is a GOAWAY.
    pub fn go_away(&self) -> Option<GoAway> {
        let number = |at: usize| u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap());
        (self.kind == Kind::GoAway).then(|| GoAway {
            last_stream: number(0),
            error: number(4),
        })
    }
}
