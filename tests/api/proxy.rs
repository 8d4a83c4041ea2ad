//! The network between the service and its database, as a test wants it.

use std::net::SocketAddr;
use std::path::PathBuf;
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
    /// Connections are cut, and new ones closed at once.
    Cut,
}

/// Between a free port and the socket of a PostgreSQL. Ends with the test's runtime.
pub struct Proxy {
    pub addr: SocketAddr,
    weather: watch::Sender<Weather>,
}

impl Proxy {
    pub async fn start(socket: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let weather = watch::Sender::new(Weather::Fair);
        let seen = weather.subscribe();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, socket.clone(), seen.clone()));
            }
        });
        Self { addr, weather }
    }

    pub fn turn(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

async fn carry(client: TcpStream, socket: PathBuf, weather: watch::Receiver<Weather>) {
    let Ok(server) = UnixStream::connect(socket).await else {
        return;
    };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut cut = weather.clone();
    tokio::select! {
        () = copy(from_client, to_server, weather.clone()) => {}
        () = copy(from_server, to_client, weather) => {}
        _ = cut.wait_for(|weather| *weather == Weather::Cut) => {}
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut weather: watch::Receiver<Weather>,
) {
    let mut bytes = [0; 16 * 1024];
    loop {
        let Ok(count @ 1..) = from.read(&mut bytes).await else {
            return;
        };
        let now = *weather.borrow();
        match now {
            Weather::Fair | Weather::Cut => {}
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
