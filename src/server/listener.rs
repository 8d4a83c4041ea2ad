//! Accepts connections: bounds their number, performs TLS handshakes and closes silent connections.
//!
//! A connection is passed on once its first bytes tell HTTP/2 from HTTP/1.1; from then on keepalive pings or the idle
//! limit of HTTP/1.1 detect a dead connection. Until then it is a pending handshake with a time limit. The number of
//! pending handshakes is bounded as well: above the bound the oldest is closed, so that silent clients do not lock out
//! others.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf, copy, sink};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::either::Either;
use tonic::transport::server::Connected;

use super::tls::Tls;
use crate::config::ConnectionLimits;
use crate::grpc::{ConnectionReplies, ReplyBudget};
use crate::panics::keep_running;

/// Maximum number of pending handshakes, which is also at most half of the connection limit.
const PENDING_MAX: usize = 1_000;
/// The preface that every HTTP/2 client sends first.
const PREFACE: &[u8; PREFACE_BYTES] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const PREFACE_BYTES: usize = 24;
/// Pause after a failed accept, for example when file descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Minimum interval between two warnings.
const WARN_INTERVAL: Duration = Duration::from_secs(10);
/// Capacity of the channel of accepted connections that the server has not received yet.
const READY_MAX: usize = 16;

/// A client's connection whose first bytes have been read already.
pub(super) struct Connection {
    wire: Wire,
    replies: Arc<ConnectionReplies>,
    version: HttpVersion,
    /// The bytes that have been read, and that `poll_read` has not returned yet.
    start: Bytes,
    _permit: OwnedSemaphorePermit,
}

/// The version of HTTP that a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HttpVersion {
    One,
    Two,
}

type Wire = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// Returns the connections of a listener. Dropping the stream closes the listener.
pub(super) fn incoming(
    listener: TcpListener,
    tls: Option<Tls>,
    limits: ConnectionLimits,
    replies: ReplyBudget,
) -> ReceiverStream<io::Result<Connection>> {
    let (ready, connections) = mpsc::channel(READY_MAX);
    let mut acceptor = Acceptor {
        listener,
        tls,
        limits,
        replies,
        free: Arc::new(Semaphore::new(limits.connections_max)),
        ready,
        pending: PendingHandshakes::new(PENDING_MAX.min(limits.connections_max / 2)),
        last_warning: None,
    };
    tokio::spawn(keep_running("acceptor", async move || acceptor.run().await));
    ReceiverStream::new(connections)
}

struct Acceptor {
    listener: TcpListener,
    tls: Option<Tls>,
    limits: ConnectionLimits,
    replies: ReplyBudget,
    free: Arc<Semaphore>,
    ready: mpsc::Sender<io::Result<Connection>>,
    pending: PendingHandshakes,
    last_warning: Option<Instant>,
}

impl Acceptor {
    async fn run(&mut self) {
        loop {
            let accepted = tokio::select! {
                () = self.ready.closed() => return,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((tcp, _)) => self.admit(tcp),
                Err(error) if concerns_one_connection(&error) => {}
                Err(error) => {
                    self.warn(&format!("cannot accept connections: {error}"));
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit(&mut self, tcp: TcpStream) {
        let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() else {
            self.warn("connection limit reached, closing new connections");
            return;
        };
        let acceptor = self.tls.as_ref().map(Tls::acceptor);
        let ready = self.ready.clone();
        let replies = self.replies.connection();
        let limit = self.limits.handshake;
        self.pending.add(async move {
            match timeout(limit, handshake(tcp, acceptor, replies, permit)).await {
                // The send fails if the server is shutting down.
                Ok(Ok(connection)) => drop(ready.send(Ok(connection)).await),
                Ok(Err(error)) => tracing::debug!(%error, "a handshake failed"),
                Err(_) => tracing::debug!("a handshake timed out"),
            }
        });
    }

    fn warn(&mut self, message: &str) {
        if self.last_warning.is_none_or(|at| at.elapsed() >= WARN_INTERVAL) {
            self.last_warning = Some(Instant::now());
            tracing::warn!("{message}");
        }
    }
}

/// Handshakes in progress. They are aborted when this value is dropped.
struct PendingHandshakes {
    max: usize,
    tasks: JoinSet<()>,
    oldest_first: VecDeque<AbortHandle>,
}

impl PendingHandshakes {
    fn new(max: usize) -> Self {
        Self {
            max: max.max(1),
            tasks: JoinSet::new(),
            oldest_first: VecDeque::new(),
        }
    }

    /// Starts a handshake; aborts the oldest one if there are too many.
    fn add(&mut self, handshake: impl Future<Output = ()> + Send + 'static) {
        while self.tasks.try_join_next().is_some() {}
        if self.tasks.len() >= self.max {
            self.oldest_first.retain(|task| !task.is_finished());
            if let Some(oldest) = self.oldest_first.pop_front() {
                oldest.abort();
            }
        }
        while self.oldest_first.front().is_some_and(AbortHandle::is_finished) {
            self.oldest_first.pop_front();
        }
        self.oldest_first.push_back(self.tasks.spawn(handshake));
    }
}

/// Performs the TLS handshake, if TLS is on, and reads the first bytes.
async fn handshake(
    tcp: TcpStream,
    acceptor: Option<TlsAcceptor>,
    replies: Arc<ConnectionReplies>,
    permit: OwnedSemaphorePermit,
) -> io::Result<Connection> {
    tcp.set_nodelay(true)?;
    let mut wire: Wire = match acceptor {
        Some(acceptor) => Either::Right(Box::new(tls_handshake(tcp, &acceptor).await?)),
        None => Either::Left(tcp),
    };
    let (version, start) = read_start(&mut wire).await?;
    Ok(Connection {
        wire,
        replies,
        version,
        start,
        _permit: permit,
    })
}

/// Reads until the bytes are the HTTP/2 preface or differ from it. Fails if they cannot be HTTP at all.
async fn read_start(wire: &mut Wire) -> io::Result<(HttpVersion, Bytes)> {
    let mut start = [0; PREFACE_BYTES];
    let mut read = 0;
    while read < PREFACE_BYTES {
        let count = wire.read(&mut start[read..]).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        read += count;
        if start[..read] != PREFACE[..read] {
            // Other protocols, such as TLS to a server without it, do not begin with text.
            if start[0].is_ascii_graphic() || start[0].is_ascii_whitespace() {
                return Ok((HttpVersion::One, Bytes::copy_from_slice(&start[..read])));
            }
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the client does not speak HTTP",
            ));
        }
    }
    Ok((HttpVersion::Two, Bytes::from_static(PREFACE)))
}

async fn tls_handshake(tcp: TcpStream, acceptor: &TlsAcceptor) -> io::Result<TlsStream<TcpStream>> {
    match acceptor.accept(tcp).into_fallible().await {
        Ok(tls) => Ok(tls),
        Err((error, mut tcp)) => {
            // Closing with unread bytes would reset the connection before the client has read the TLS alert.
            tcp.shutdown().await?;
            copy(&mut tcp, &mut sink()).await?;
            Err(error)
        }
    }
}

/// Returns true if the error does not concern the listener: the connection ended before it was accepted, or a
/// signal interrupted the call.
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

impl Connected for Connection {
    type ConnectInfo = Arc<ConnectionReplies>;

    fn connect_info(&self) -> Arc<ConnectionReplies> {
        Arc::clone(&self.replies)
    }
}

impl Connection {
    /// Returns the version of HTTP that the client speaks.
    pub(super) fn version(&self) -> HttpVersion {
        self.version
    }

    /// Fails once the connection has to be closed. A client that reads nothing blocks the writes of the
    /// connection, and HTTP/2 does not read while it cannot write, so both check it.
    fn check_open(&self, cx: &Context<'_>) -> io::Result<()> {
        match self.replies.poll_closed(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.start.is_empty() {
            let count = self.start.len().min(buffer.remaining());
            buffer.put_slice(&self.start.split_to(count));
            return Poll::Ready(Ok(()));
        }
        self.check_open(cx)?;
        Pin::new(&mut self.wire).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check_open(cx)?;
        Pin::new(&mut self.wire).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check_open(cx)?;
        Pin::new(&mut self.wire).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.wire.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(cx)
    }
}
