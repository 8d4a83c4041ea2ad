//! A TCP proxy between the service and its database, which simulates network faults.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::support::harness::eventually;

/// State of the simulated network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkState {
    /// Bytes pass without delay.
    Up,
    /// Each chunk is delayed.
    Slow(Duration),
    /// Each chunk that contains this text is delayed.
    SlowText(&'static str, Duration),
    /// Bytes are held back, without an error, until the state changes.
    Stalled,
    /// Bytes are dropped, without an error; connections that were open in this state never recover.
    Blackholed,
    /// Open connections are closed, and new ones are closed at once.
    Cut,
}

/// Proxy from a free port to the Unix socket of a PostgreSQL. Ends with the test's runtime.
pub struct Proxy {
    pub addr: SocketAddr,
    state: watch::Sender<NetworkState>,
    connections: Arc<ConnectionCount>,
    /// Number of chunks that were delayed for their text.
    delayed: Arc<AtomicUsize>,
}

/// Number of open connections from the service.
#[derive(Default)]
struct ConnectionCount {
    open: AtomicUsize,
    max_open: AtomicUsize,
}

impl Proxy {
    pub async fn start(socket: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let state = watch::Sender::new(NetworkState::Up);
        let state_changes = state.subscribe();
        let connections = Arc::<ConnectionCount>::default();
        let count = Arc::clone(&connections);
        let delayed = Arc::<AtomicUsize>::default();
        let delayed_count = Arc::clone(&delayed);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (socket, state, count) = (socket.clone(), state_changes.clone(), Arc::clone(&count));
                let delayed = Arc::clone(&delayed_count);
                tokio::spawn(async move {
                    let open = count.open.fetch_add(1, Ordering::AcqRel) + 1;
                    count.max_open.fetch_max(open, Ordering::AcqRel);
                    forward(client, socket, state, &delayed).await;
                    count.open.fetch_sub(1, Ordering::AcqRel);
                });
            }
        });
        Self {
            addr,
            state,
            connections,
            delayed,
        }
    }

    pub fn set(&self, state: NetworkState) {
        self.state.send_replace(state);
    }

    /// Waits until another chunk is delayed for its text.
    pub async fn delays_a_chunk(&self) {
        let before = self.delayed.load(Ordering::Acquire);
        eventually("the proxy delays bytes", async || {
            (self.delayed.load(Ordering::Acquire) > before).then_some(())
        })
        .await;
    }

    /// Largest number of connections that were open at the same time.
    pub fn max_open(&self) -> usize {
        self.connections.max_open.load(Ordering::Acquire)
    }
}

/// Forwards bytes in both directions until either side closes or the network state ends the connection.
async fn forward(
    mut client: TcpStream,
    socket: PathBuf,
    mut state: watch::Receiver<NetworkState>,
    delayed: &AtomicUsize,
) {
    let Ok(mut server) = UnixStream::connect(socket).await else {
        return;
    };
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let (upstream, downstream) = (state.clone(), state.clone());
    let ends_connections =
        |state: &NetworkState| matches!(state, NetworkState::Cut | NetworkState::Blackholed);
    let is_blackholed = tokio::select! {
        () = copy(from_client, to_server, upstream, delayed) => false,
        () = copy(from_server, to_client, downstream, delayed) => false,
        Ok(state) = state.wait_for(ends_connections) => *state == NetworkState::Blackholed,
    };
    if is_blackholed {
        // Discard what the client sends until it closes the connection.
        drop(tokio::io::copy(&mut client, &mut tokio::io::sink()).await);
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut state: watch::Receiver<NetworkState>,
    delayed: &AtomicUsize,
) {
    let mut bytes = vec![0; 16 * 1024];
    loop {
        let Ok(count @ 1..) = from.read(&mut bytes).await else {
            return;
        };
        let current = *state.borrow();
        match current {
            NetworkState::Up | NetworkState::Cut | NetworkState::Blackholed => {}
            NetworkState::Slow(delay) => sleep(delay).await,
            NetworkState::SlowText(text, delay) => {
                let chunk = &bytes[..count];
                if chunk.windows(text.len()).any(|part| part == text.as_bytes()) {
                    delayed.fetch_add(1, Ordering::AcqRel);
                    sleep(delay).await;
                }
            }
            NetworkState::Stalled => {
                // TCP retransmits for minutes, so the bytes arrive once the network is back.
                if state
                    .wait_for(|state| *state != NetworkState::Stalled)
                    .await
                    .is_err()
                {
                    return;
                }
            }
        }
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}
