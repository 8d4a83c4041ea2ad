//! Assembles services, health, reflection and middleware, serves, and drains.
//!
//! The server listens from the start. Until the database is reachable and migrated, its health is NOT_SERVING
//! and calls fail with UNAVAILABLE. Tests call [`run`] as the binary does.

mod drain;
mod health;
mod http1;
mod listener;
mod services;
mod settings;
mod startup;
mod tls;
pub(crate) mod write_coalescer;

use std::convert::Infallible;
use std::future::{self, pending};
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::TryStreamExt as _;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tonic::service::Routes;
use tonic::transport::Server;
use tower::Layer as _;

use crate::admin::{self, Admin, Stage};
use crate::config::ConnectionLimits;
use crate::grpc::{CallLayer, Context, Keyring, ReplyBudget};
use crate::store::Store;
use drain::drain;
use health::{Health, probe_database};
use http1::Http1;
use listener::{Connection, HttpVersion};
use services::Layers;
use startup::{check_authentication, prepare_database};
use write_coalescer::WriteCoalescer;

pub use settings::ServerSettings;
pub use startup::MissingAuthentication;
pub use tls::Tls;

/// The sockets that the server listens on.
#[derive(Debug)]
pub struct Listeners {
    /// For calls.
    pub calls: TcpListener,
    /// For operators, see [`admin`].
    pub admin: Option<TcpListener>,
}

impl From<TcpListener> for Listeners {
    /// Creates listeners without one for operators.
    fn from(calls: TcpListener) -> Self {
        Self { calls, admin: None }
    }
}

/// Time limit for the reply to an HTTP/2 keepalive ping; at most the ping interval.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Maximum number of calls that a client has opened and cancelled before the server accepted them. Beyond it
/// the connection is closed with all its other calls, and the default of 20 is too low for a client that
/// cancels a burst.
const CANCELLED_CALLS_MAX: usize = 1_000;
/// Maximum size of a request's headers, as HTTP/2 counts it.
const HEADER_BYTES_MAX: u32 = 16 * 1024;

/// Serves until `shutdown` is cancelled, then drains. Sends `ready` once the database is reachable and migrated.
///
/// # Errors
/// When the database cannot be used by this version, when the listener fails, or with
/// [`MissingAuthentication`].
pub async fn run(
    listeners: impl Into<Listeners>,
    store: Store,
    settings: ServerSettings,
    shutdown: CancellationToken,
    ready: oneshot::Sender<()>,
) -> anyhow::Result<()> {
    let Listeners {
        calls: listener,
        admin,
    } = listeners.into();
    let auth = settings.auth;
    let addr = listener.local_addr()?;
    let keyring = Keyring::new(store.clone(), auth.key_limits);
    let migrated = Arc::new(AtomicBool::new(false));
    let (health, health_service) = Health::new();
    health.set(Stage::Starting).await;
    let calls = CallLayer::new();
    let replies = ReplyBudget::start(settings.replies);
    let state = Admin {
        calls: calls.clone(),
        store: store.clone(),
        readiness: health.readiness(),
        replies: replies.clone(),
    };
    let admin = admin.map(|listener| AbortOnDropHandle::new(tokio::spawn(admin::serve(listener, state))));

    let context = Context {
        store: store.clone(),
        limits: settings.limits,
        message_bytes_max: settings.message_bytes_max,
        ingest_window: settings.ingest_window,
        shutdown: shutdown.clone(),
    };
    let layers = services::layers(calls, &settings, &context, &migrated, &keyring, addr);
    let routes = services::routes(health_service, context, auth.reflection)?;
    let connections = listener::incoming(listener, settings.tls.clone(), settings.connections, replies);
    let served = serve(
        connections,
        layers,
        routes,
        settings.connections,
        shutdown.clone(),
    );
    let mut server = tokio::spawn(served);

    let outcome = tokio::select! {
        // Biased, because on shutdown a server without connections ends at once and must still be drained.
        biased;
        () = shutdown.cancelled() => Ok(()),
        served = &mut server => return served?.context("serving failed"),
        prepared = async {
            if !prepare_database(&store, &keyring).await? {
                check_authentication(addr, auth)?;
            }
            let _task = AbortOnDropHandle::new(tokio::spawn(keyring.run()));
            let _retention = AbortOnDropHandle::new(tokio::spawn(store.run_retention()));
            probe_database(&store, &health, &migrated, ready).await;
            Ok(())
        } => prepared,
        never = follow_tls_files(settings.tls.as_ref()) => match never {},
    };
    shutdown.cancel();
    health.set(Stage::Draining).await;
    health.end_watches().await;
    drain(server, &store, settings.drain_limit).await;
    drop(admin);
    outcome
}

/// Serves connections of both versions of HTTP until `shutdown` is cancelled and all calls have ended.
async fn serve(
    connections: ReceiverStream<io::Result<Connection>>,
    layers: Layers,
    routes: Routes,
    limits: ConnectionLimits,
    shutdown: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let http1 = Http1 {
        service: layers.layer(routes.clone().prepare()),
        idle: limits.http1_idle,
        shutdown: shutdown.clone(),
        connections: TaskTracker::new(),
    };
    let http1_connections = http1.connections.clone();
    let http2_connections = connections.try_filter_map(move |connection| {
        future::ready(Ok(match connection.version() {
            HttpVersion::One => {
                http1.serve(connection);
                None
            }
            HttpVersion::Two => Some(WriteCoalescer::new(connection)),
        }))
    });
    let served = http2(limits.ping_interval)
        .layer(layers)
        .add_routes(routes)
        .serve_with_incoming_shutdown(http2_connections, shutdown.cancelled_owned())
        .await;
    http1_connections.close();
    http1_connections.wait().await;
    served
}

async fn follow_tls_files(tls: Option<&Tls>) -> Infallible {
    match tls {
        Some(tls) => tls.follow_files().await,
        None => pending().await,
    }
}

/// Returns a server with the HTTP/2 settings, without layers and services.
fn http2(ping_interval: Duration) -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(ping_interval))
        .http2_keepalive_timeout(Some(PING_TIMEOUT.min(ping_interval)))
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_max_pending_accept_reset_streams(Some(CANCELLED_CALLS_MAX))
}
