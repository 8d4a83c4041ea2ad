//! The network between the service and its database, as a test wants it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::time::sleep;

/// What happens to bytes on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    Fair,
    /// Each piece is held up for so long.
    Slow(Duration),
    /// Nothing gets through, and nobody is told.
    Swallowing,
    /// The same, and nothing ever will on connections that were open meanwhile.
    Forgetting,
    /// Connections are cut, and new ones closed at once.
    Cut,
}

/// Between a free port and the socket of a PostgreSQL. Ends with the test's runtime.
pub struct Proxy {
    pub addr: SocketAddr,
    weather: watch::Sender<Weather>,
    open: Arc<Open>,
}

/// Connections of the service.
#[derive(Default)]
struct Open {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Proxy {
    pub async fn start(socket: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let weather = watch::Sender::new(Weather::Fair);
        let seen = weather.subscribe();
        let open = Arc::<Open>::default();
        let counted = Arc::clone(&open);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (socket, weather, open) = (socket.clone(), seen.clone(), Arc::clone(&counted));
                tokio::spawn(async move {
                    let now = open.now.fetch_add(1, Ordering::AcqRel) + 1;
                    open.most.fetch_max(now, Ordering::AcqRel);
                    carry(client, socket, weather).await;
                    open.now.fetch_sub(1, Ordering::AcqRel);
                });
            }
        });
        Self { addr, weather, open }
    }

    pub fn turn(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// How many connections were open at the same time.
    pub fn most_open(&self) -> usize {
        self.open.most.load(Ordering::Acquire)
    }
}

async fn carry(mut client: TcpStream, socket: PathBuf, mut weather: watch::Receiver<Weather>) {
    let Ok(mut server) = UnixStream::connect(socket).await else {
        return;
    };
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let (there, back) = (weather.clone(), weather.clone());
    let is_cut = |weather: &Weather| matches!(weather, Weather::Cut | Weather::Forgetting);
    let is_forgotten = tokio::select! {
        () = copy(from_client, to_server, there) => false,
        () = copy(from_server, to_client, back) => false,
        Ok(now) = weather.wait_for(is_cut) => *now == Weather::Forgetting,
    };
    if is_forgotten {
        // What the client says goes nowhere, until it gives up.
        drop(tokio::io::copy(&mut client, &mut tokio::io::sink()).await);
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut weather: watch::Receiver<Weather>,
) {
    let mut bytes = vec![0; 16 * 1024];
    loop {
        let Ok(count @ 1..) = from.read(&mut bytes).await else {
            return;
        };
        let now = *weather.borrow();
        match now {
            Weather::Fair | Weather::Cut | Weather::Forgetting => {}
            Weather::Slow(delay) => sleep(delay).await,
            Weather::Swallowing => {
                // TCP would send it again for minutes: it arrives when the network is back.
                if weather
                    .wait_for(|weather| *weather != Weather::Swallowing)
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
