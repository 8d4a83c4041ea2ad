//! Accepts HTTP connections on the admin address, which needs no authentication: bounds their number and their
//! time, so that they use a small share of the file descriptors and no caller shuts out the operators.

use std::collections::VecDeque;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

/// Open connections; above the limit the oldest is closed.
pub(super) const CONNECTIONS_MAX: usize = 32;
/// Time limit of a request's headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit of a connection, which serves one request.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after a failed accept, for example for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until the future is dropped.
pub(super) async fn serve(listener: TcpListener, routes: Router) {
    let mut connections = Connections::default();
    loop {
        match listener.accept().await {
            Ok((tcp, _)) => connections.add(serve_connection(tcp, routes.clone())),
            Err(error) => {
                tracing::debug!(%error, "cannot accept connections for operators");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_connection(tcp: TcpStream, routes: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(tcp), TowerToHyperService::new(routes));
    match timeout(CONNECTION_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection of an operator failed"),
        Err(_) => tracing::debug!("a connection of an operator timed out"),
    }
}

/// Open connections. They are aborted when this value is dropped.
#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    oldest_first: VecDeque<AbortHandle>,
}

impl Connections {
    /// Serves a connection; closes the oldest one if there are too many.
    fn add(&mut self, connection: impl Future<Output = ()> + Send + 'static) {
        while self.tasks.try_join_next().is_some() {}
        self.oldest_first.retain(|task| !task.is_finished());
        if self.oldest_first.len() >= CONNECTIONS_MAX
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            oldest.abort();
        }
        self.oldest_first.push_back(self.tasks.spawn(connection));
    }
}
