//! Takes connections in: bounds how many there are, makes TLS of them, and lets none wait in silence.
//!
//! A connection is handed on once its client has sent HTTP/2's first bytes; from then on pings find
//! out whether it lives. Until then it is a newcomer, with a time limit. Their number is bounded, too: past
//! it the oldest has to go, so that silent ones do not shut out those who speak.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf, copy, sink};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::either::Either;
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::tls::Tls;
use crate::panics::keep_running;

/// Bounds of connections.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Open at the same time; further ones are closed at once.
    pub connections_max: usize,
    /// In which a client has to have shaken hands and sent its first bytes.
    pub handshake: Duration,
    /// Of silence, after which HTTP/2 asks whether the client is still there.
    pub ping_interval: Duration,
}

/// Connections that have not yet sent HTTP/2's first bytes, and no more than half of all.
const NEWCOMERS_MAX: usize = 1_000;
/// What every HTTP/2 client sends first.
const PREFACE_BYTES: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
/// Before the next try when the system gives no connection, for want of file descriptors for one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Between two log lines about the same trouble.
const WARN_INTERVAL: Duration = Duration::from_secs(10);
/// Connections handed on and not yet taken.
const HANDOVER_MAX: usize = 16;

/// A client's connection, from which its first bytes have been read already.
pub(super) struct Connection {
    wire: Wire,
    peer: TcpConnectInfo,
    preface: [u8; PREFACE_BYTES],
    /// Bytes of the preface that the reader has got.
    given: usize,
    _permit: OwnedSemaphorePermit,
}

type Wire = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// The connections of a listener, which closes when they are dropped.
pub(super) fn incoming(
    listener: TcpListener,
    tls: Option<Tls>,
    limits: ConnectionLimits,
) -> ReceiverStream<io::Result<Connection>> {
    let (ready, connections) = mpsc::channel(HANDOVER_MAX);
    let mut entrance = Acceptor {
        listener,
        tls,
        limits,
        free: Arc::new(Semaphore::new(limits.connections_max)),
        ready,
        newcomers: PendingHandshakes::at_most(NEWCOMERS_MAX.min(limits.connections_max / 2)),
        warned: None,
    };
    tokio::spawn(keep_running("entrance", async move || entrance.open().await));
    ReceiverStream::new(connections)
}

struct Acceptor {
    listener: TcpListener,
    tls: Option<Tls>,
    limits: ConnectionLimits,
    free: Arc<Semaphore>,
    ready: mpsc::Sender<io::Result<Connection>>,
    newcomers: PendingHandshakes,
    warned: Option<Instant>,
}

impl Acceptor {
    async fn open(&mut self) {
        loop {
            let accepted = tokio::select! {
                () = self.ready.closed() => return,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((tcp, _)) => self.admit(tcp),
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    self.warn(&format!("no connection can be taken: {error}"));
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit(&mut self, tcp: TcpStream) {
        let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() else {
            self.warn("as many connections as there may be, closing new ones");
            return;
        };
        let acceptor = self.tls.as_ref().map(Tls::acceptor);
        let ready = self.ready.clone();
        let limit = self.limits.handshake;
        self.newcomers.add(async move {
            match timeout(limit, greet(tcp, acceptor, permit)).await {
                // Nobody takes it when the server is about to end.
                Ok(Ok(connection)) => drop(ready.send(Ok(connection)).await),
                Ok(Err(error)) => tracing::debug!(%error, "a connection came to nothing"),
                Err(_) => tracing::debug!("a connection stayed silent"),
            }
        });
    }

    fn warn(&mut self, trouble: &str) {
        if self.warned.is_none_or(|at| at.elapsed() >= WARN_INTERVAL) {
            self.warned = Some(Instant::now());
            tracing::warn!("{trouble}");
        }
    }
}

/// Connections being made, the oldest first; they end with this value.
struct PendingHandshakes {
    max: usize,
    tasks: JoinSet<()>,
    oldest_first: VecDeque<AbortHandle>,
}

impl PendingHandshakes {
    fn at_most(max: usize) -> Self {
        Self {
            max: max.max(1),
            tasks: JoinSet::new(),
            oldest_first: VecDeque::new(),
        }
    }

    fn add(&mut self, newcomer: impl Future<Output = ()> + Send + 'static) {
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
        self.oldest_first.push_back(self.tasks.spawn(newcomer));
    }
}

/// Reads what every client sends first, under TLS if that is on.
async fn greet(
    tcp: TcpStream,
    acceptor: Option<TlsAcceptor>,
    permit: OwnedSemaphorePermit,
) -> io::Result<Connection> {
    tcp.set_nodelay(true)?;
    let peer = tcp.connect_info();
    let mut wire: Wire = match acceptor {
        Some(acceptor) => Either::Right(Box::new(shake_hands(tcp, &acceptor).await?)),
        None => Either::Left(tcp),
    };
    let mut preface = [0; PREFACE_BYTES];
    wire.read_exact(&mut preface).await?;
    Ok(Connection {
        wire,
        peer,
        preface,
        given: 0,
        _permit: permit,
    })
}

async fn shake_hands(tcp: TcpStream, acceptor: &TlsAcceptor) -> io::Result<TlsStream<TcpStream>> {
    match acceptor.accept(tcp).into_fallible().await {
        Ok(tls) => Ok(tls),
        Err((error, mut tcp)) => {
            // Closed with bytes unread, the connection would be reset, and the client would not get to read why.
            tcp.shutdown().await?;
            copy(&mut tcp, &mut sink()).await?;
            Err(error)
        }
    }
}

/// Whether the error concerns a connection that ended before it was taken, not the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.given < PREFACE_BYTES {
            let end = PREFACE_BYTES.min(self.given + buffer.remaining());
            buffer.put_slice(&self.preface[self.given..end]);
            self.given = end;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.wire).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.wire).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
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
