//! Puts services, health, reflection and layers together, serves, and drains.
//!
//! The server listens from the start; until the database is reachable and migrated its health is
//! NOT_SERVING and calls answer UNAVAILABLE. Tests call [`run`] as the binary does.

mod listener;
mod services;
mod tls;
pub(crate) mod write_coalescer;

use std::convert::Infallible;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use futures_util::TryStreamExt as _;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::admin::{self, Admin, Readiness, Stage};
use crate::domain::limits::Limits;
use crate::grpc::pb::event_service_server::SERVICE_NAME as EVENT_SERVICE;
use crate::grpc::pb::spirit_service_server::SERVICE_NAME as SPIRIT_SERVICE;
use crate::grpc::{CallLayer, Context, KeyLimits, Keyring, Reflection};
use crate::panics::keep_running;
use crate::store::{StartupError, Store};
use write_coalescer::WriteCoalescer;

pub use listener::ConnectionLimits;
pub use tls::{ClientAuth, Tls, TlsFiles};

/// What the server listens on.
#[derive(Debug)]
pub struct Listeners {
    pub calls: TcpListener,
    /// For operators, see [`admin`].
    pub admin: Option<TcpListener>,
}

impl From<TcpListener> for Listeners {
    /// Without anything for operators.
    fn from(calls: TcpListener) -> Self {
        Self { calls, admin: None }
    }
}

/// How the server serves.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// Bounds of requests.
    pub limits: Limits,
    /// Bytes of a request message.
    pub message_bytes_max: usize,
    /// Unanswered items that one ingest stream may have.
    pub ingest_window: usize,
    /// How long calls under way have when the server ends.
    pub drain_limit: Duration,
    /// Who may call.
    pub auth: AuthSettings,
    /// How long a call may take, whatever its caller allows; for streams, until they begin.
    pub call_limit: Duration,
    /// Bounds of connections.
    pub connections: ConnectionLimits,
    /// Without it plain text is spoken, with it TLS alone.
    pub tls: Option<Tls>,
}

/// Who may call.
#[derive(Clone, Copy, Debug)]
pub struct AuthSettings {
    /// Whether to serve everybody on an address that others can reach, as long as there was no key.
    pub insecure_no_auth: bool,
    /// Who may use reflection.
    pub reflection: Reflection,
    /// What each key may ask of this server.
    pub key_limits: KeyLimits,
}

/// Others can reach the address, and everybody could do everything there.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error(
    "refusing to serve {0} without authentication: no API key was ever made. Make one with `elephantasm-events key \
     create`, or listen on 127.0.0.1, or, where everybody who can reach the address may do everything, give \
     --insecure-no-auth (EVENTS_INSECURE_NO_AUTH=true)"
)]
pub struct Unguarded(SocketAddr);

/// What health knows by name; empty = the server.
const SERVICES: [&str; 3] = ["", EVENT_SERVICE, SPIRIT_SERVICE];
/// Between two looks at the database.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// After which a look at the database has failed.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// What the store has to close itself after calls have taken all the time there was.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause after a failed attempt to migrate: first, and at the most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// The longest time that a peer has to answer an HTTP/2 ping.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Calls that a client has opened and cancelled before the server took them up. Past it the
/// connection is closed, with all other calls on it; the default of 20 hits a client that cancels a
/// burst.
const CANCELLED_CALLS_MAX: usize = 1_000;
/// Bytes of a request's headers.
const HEADER_BYTES_MAX: u32 = 16 * 1024;

/// Serves until `shutdown` is cancelled, then drains; `ready` is sent once the database is
/// reachable and migrated.
///
/// # Errors
/// When the database belongs to another version, the listener fails, or it is [`Unguarded`].
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
    health.tell(Stage::Starting).await;
    let calls = CallLayer::new();
    let admin = admin.map(|listener| {
        let answers = Admin {
            calls: calls.clone(),
            store: store.clone(),
            readiness: health.readiness.clone(),
        };
        AbortOnDropHandle::new(tokio::spawn(admin::serve(listener, answers)))
    });

    let context = Context {
        store: store.clone(),
        limits: settings.limits,
        message_bytes_max: settings.message_bytes_max,
        ingest_window: settings.ingest_window,
        shutdown: shutdown.clone(),
    };
    let layers = services::layers(calls, &settings, &context, &migrated, &keyring);
    let routes = services::routes(health_service, context, auth.reflection)?;
    let connections =
        listener::incoming(listener, settings.tls.clone(), settings.connections).map_ok(WriteCoalescer::new);
    let server = http2(settings.connections.ping_interval)
        .layer(layers)
        .add_routes(routes)
        .serve_with_incoming_shutdown(connections, shutdown.clone().cancelled_owned());
    let mut server = tokio::spawn(server);

    let watched = tokio::select! {
        // Told to end, a server without connections ends at once, and is to be drained all the same.
        biased;
        () = shutdown.cancelled() => Ok(()),
        served = &mut server => return served?.context("serving failed"),
        prepared = async {
            if !prepare_database(&store, &keyring).await? {
                open_to_all(addr, auth)?;
            }
            let _kept = AbortOnDropHandle::new(tokio::spawn(keyring.keep()));
            watch_database(&store, &health, &migrated, ready).await;
            Ok(())
        } => prepared,
        never = follow_files(settings.tls.as_ref()) => match never {},
    };
    shutdown.cancel();
    health.tell(Stage::Draining).await;
    health.end_watches().await;
    drain(server, &store, settings.drain_limit).await;
    drop(admin);
    watched
}

async fn follow_files(tls: Option<&Tls>) -> Infallible {
    match tls {
        Some(tls) => tls.follow_files().await,
        None => pending().await,
    }
}

/// Without a layer or a service.
fn http2(ping_interval: Duration) -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(ping_interval))
        .http2_keepalive_timeout(Some(PING_TIMEOUT.min(ping_interval)))
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_max_pending_accept_reset_streams(Some(CANCELLED_CALLS_MAX))
}

/// Whether everybody may do everything at this address, which others may reach.
fn open_to_all(addr: SocketAddr, auth: AuthSettings) -> Result<(), Unguarded> {
    if addr.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    if !auth.insecure_no_auth {
        return Err(Unguarded(addr));
    }
    tracing::warn!(%addr, "no API key was ever made: whoever reaches this address may do everything");
    Ok(())
}

/// What the server is doing, told to clients and balancers, and to operators.
#[derive(Clone)]
struct Health {
    reporter: HealthReporter,
    readiness: Readiness,
}

impl Health {
    /// And the service that tells it.
    fn new() -> (Self, Routes) {
        let (reporter, service) = tonic_health::server::health_reporter();
        let health = Self {
            reporter,
            readiness: Readiness::new(),
        };
        (health, Routes::new(service))
    }

    async fn tell(&self, stage: Stage) {
        self.readiness.set(stage);
        let status = if stage == Stage::Serving {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        for service in SERVICES {
            self.reporter.set_service_status(service, status).await;
        }
    }

    /// Ends the streams of health's Watch once they have told the last status. They have no end of their
    /// own, and balancers hold them open: each drain would take as long as it may.
    async fn end_watches(&self) {
        let mut reporter = self.reporter.clone();
        for service in SERVICES {
            reporter.clear_service_status(service).await;
        }
    }
}

/// Migrates as soon as the database can be reached, and learns whether there are keys. Fails only when
/// waiting does not help.
async fn prepare_database(store: &Store, keyring: &Keyring) -> anyhow::Result<bool> {
    let mut pause = BACKOFF.0;
    loop {
        let prepared = match store.migrate().await {
            Ok(version) => {
                tracing::info!(version, "schema is up to date");
                keyring.learn().await.map_err(|error| error.to_string())
            }
            Err(StartupError::Failed(cause)) => Err(cause),
            Err(fatal) => return Err(fatal).context("the database cannot be used"),
        };
        match prepared {
            Ok(keyed) => return Ok(keyed),
            Err(cause) => tracing::warn!(cause, "database not ready, trying again"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(BACKOFF.1);
    }
}

/// Keeps health as the database is.
async fn watch_database(store: &Store, health: &Health, migrated: &AtomicBool, ready: oneshot::Sender<()>) {
    // Makes the connection that later looks use, while nothing else is under way.
    if let Err(cause) = store.ping().await {
        tracing::debug!(%cause, "the database went away as soon as it was there");
    }
    migrated.store(true, Ordering::Release);
    health.tell(Stage::Serving).await;
    if ready.send(()).is_err() {
        tracing::debug!("nobody waits for the server to be ready");
    }

    let (store, health, mut serving) = (store.clone(), health.clone(), true);
    keep_running("health probe", async move || {
        loop {
            sleep(PROBE_INTERVAL).await;
            probe_database(&store, &health, &mut serving).await;
        }
    })
    .await;
}

async fn probe_database(store: &Store, health: &Health, serving: &mut bool) {
    let answers = matches!(timeout(PROBE_TIMEOUT, store.ping()).await, Ok(Ok(())));
    if answers == *serving {
        return;
    }
    tracing::warn!(serving = answers, "the database's state changed");
    if !answers {
        store.live.end_all();
    }
    let stage = if answers {
        Stage::Serving
    } else {
        Stage::DatabaseAway
    };
    health.tell(stage).await;
    *serving = answers;
}

/// Lets calls under way finish within the limit, then the queued writes; those that nobody waits for any
/// longer are given up with it.
async fn drain(
    server: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
    store: &Store,
    limit: Duration,
) {
    let deadline = Instant::now() + limit;
    let abort = server.abort_handle();
    match timeout_at(deadline, server).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => tracing::error!(%error, "serving failed while draining"),
        Ok(Err(error)) => tracing::error!(%error, "the server's task failed"),
        Err(_) => {
            tracing::warn!(
                limit_seconds = limit.as_secs(),
                "drain limit reached, closing what is left"
            );
            abort.abort();
        }
    }
    let deadline = deadline.max(Instant::now() + CLOSE_TIMEOUT);
    if timeout_at(deadline, store.close()).await.is_err() {
        tracing::warn!("what waits to be stored did not finish in time, and was acknowledged to nobody");
    }
}
