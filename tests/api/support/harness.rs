//! Starts a real server for each test, on a database of its own.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use elephantasm_events::config::ServeArgs;
use elephantasm_events::grpc::pb::CreateSpiritRequest;
use elephantasm_events::grpc::pb::event_service_client::EventServiceClient;
use elephantasm_events::grpc::pb::purge_service_client::PurgeServiceClient;
use elephantasm_events::grpc::pb::session_service_client::SessionServiceClient;
use elephantasm_events::grpc::pb::spirit_service_client::SpiritServiceClient;
use elephantasm_events::server::{self, Listeners, ServerSettings};
use elephantasm_events::store::{Sharding, Store, StoreSettings};
use sqlx::postgres::PgConnectOptions;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use crate::support::citus;
pub use crate::support::database::Database;
use crate::support::pgbouncer::wanted_pooler;

/// Time limit of every wait; a test fails when it is exceeded.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Default of the timeouts of connections and flushes.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(60);
/// Largest message that the tests' clients send or accept.
pub const REPLY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Server settings, which a test can change from their defaults.
#[derive(Clone)]
pub struct Settings {
    pub store: StoreSettings,
    pub server: ServerSettings,
}

impl Default for Settings {
    /// The binary's defaults, except for timeouts that a busy machine would exceed.
    fn default() -> Self {
        let args = default_args();
        let mut store = StoreSettings::from(&args.database);
        store.acquire_timeout = DATABASE_TIMEOUT;
        store.ingest.flush_timeout = DATABASE_TIMEOUT;
        if citus::is_wanted() {
            store.sharding = Sharding::Citus;
        } else if let Some(shards) = wanted_shards() {
            store.sharding = Sharding::Named(shards);
        }
        Self {
            store,
            server: ServerSettings::try_from(&args).unwrap(),
        }
    }
}

fn default_args() -> ServeArgs {
    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        serve: ServeArgs,
    }
    <Cli as clap::Parser>::parse_from(["test"]).serve
}

/// A running server, its addresses and its database. Runs until [`stop`](Self::stop) or the end of the test.
pub struct TestServer {
    pub addr: std::net::SocketAddr,
    /// Address of the admin HTTP server.
    pub admin: std::net::SocketAddr,
    pub database: Arc<Database>,
    channel: Channel,
    shutdown: CancellationToken,
    served: JoinHandle<anyhow::Result<()>>,
}

impl TestServer {
    /// Starts a server with default settings on a new database.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// Starts a server with changed settings on a new database.
    pub async fn start_with(set: impl FnOnce(&mut Settings)) -> Self {
        Self::start_on(Arc::new(Database::create().await), set).await
    }

    /// Starts a server with changed settings on this database, which other servers may share. Returns when it
    /// is ready.
    pub async fn start_on(database: Arc<Database>, set: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::default();
        let connect_options = database.server_connect_options(&mut settings.store);
        set(&mut settings);
        database.set_dropped_settings(&settings.store).await;
        let started = Self::start_through(database, connect_options, settings).await;
        started.unwrap_or_else(|error| panic!("the server failed to start: {error:?}"))
    }

    /// Starts a server that connects with these options. Returns when it is ready, or with the error that
    /// ended it.
    pub async fn start_through(
        database: Arc<Database>,
        connect_options: PgConnectOptions,
        settings: Settings,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let admin_listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let admin = admin_listener.local_addr().unwrap();
        let listeners = Listeners {
            calls: listener,
            admin: Some(admin_listener),
        };
        let store = Store::open(connect_options, settings.store);
        let shutdown = CancellationToken::new();
        let (ready, is_ready) = oneshot::channel();
        let is_plaintext = settings.server.tls.is_none();
        let mut served = tokio::spawn(server::run(
            listeners,
            store,
            settings.server,
            shutdown.clone(),
            ready,
        ));
        tokio::select! {
            ended = &mut served => {
                ended.unwrap()?;
                panic!("the server ended before it was ready");
            }
            Ok(()) = is_ready => {}
            () = sleep(PATIENCE) => panic!("the server did not become ready"),
        }
        Ok(Self {
            addr,
            admin,
            channel: if is_plaintext {
                connect(addr).await
            } else {
                endpoint(addr).connect_lazy()
            },
            database,
            shutdown,
            served,
        })
    }

    pub fn events(&self) -> EventServiceClient<Channel> {
        EventServiceClient::new(self.channel.clone())
            .max_decoding_message_size(REPLY_BYTES_MAX)
            .max_encoding_message_size(REPLY_BYTES_MAX)
    }

    pub fn purges(&self) -> PurgeServiceClient<Channel> {
        PurgeServiceClient::new(self.channel.clone())
    }

    pub fn sessions(&self) -> SessionServiceClient<Channel> {
        SessionServiceClient::new(self.channel.clone())
    }

    pub fn spirits(&self) -> SpiritServiceClient<Channel> {
        SpiritServiceClient::new(self.channel.clone())
    }

    /// The connection that the clients share; it is plaintext, so it cannot reach a server with TLS.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Creates a spirit and returns its id.
    pub async fn spirit(&self) -> String {
        let request = CreateSpiritRequest {
            name: "test".to_owned(),
            ..CreateSpiritRequest::default()
        };
        let response = self.spirits().create_spirit(request).await.unwrap();
        response.into_inner().spirit.unwrap().id
    }

    /// Starts the server's shutdown, without waiting for its end.
    pub fn shut_down(&self) {
        self.shutdown.cancel();
    }

    /// Shuts the server down in order and returns its result.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        timeout(PATIENCE, self.served)
            .await
            .expect("the server shuts down within the time limit")
            .unwrap()
    }
}

pub async fn connect(addr: std::net::SocketAddr) -> Channel {
    endpoint(addr).connect().await.unwrap()
}

fn endpoint(addr: std::net::SocketAddr) -> Endpoint {
    Endpoint::from_shared(format!("http://{addr}"))
        .unwrap()
        .tcp_nodelay(true)
}

/// Number of shards into which the tests' servers divide the spirits, from `EVENTS_TEST_CITUS`; `None` without division.
pub fn wanted_shards() -> Option<u32> {
    let shards = std::env::var("EVENTS_TEST_CITUS").ok()?;
    Some(shards.parse().expect("EVENTS_TEST_CITUS is a number of shards"))
}

/// Returns true if a test is skipped because the spirits are divided into shards, and prints the reason.
pub fn skipped_with_shards(why: &str) -> bool {
    let is_skipped = citus::is_wanted() || wanted_shards().is_some();
    if is_skipped {
        eprintln!("SKIPPED with shards: {why}");
    }
    is_skipped
}

/// Returns true if a test is skipped because the tests run behind a pooler, and prints the reason.
pub fn skipped_behind_pooler(why: &str) -> bool {
    skipped(wanted_pooler(), why)
}

/// Returns true if a test is skipped because the tests run behind a pooler that drops the settings of the
/// service's connections, and prints the reason.
pub fn skipped_without_session_settings(why: &str) -> bool {
    skipped(wanted_pooler().filter(|pooler| pooler != "transaction"), why)
}

fn skipped(pooler: Option<String>, why: &str) -> bool {
    if let Some(pooler) = &pooler {
        eprintln!("SKIPPED behind a pooler ({pooler}): {why}");
    }
    pooler.is_some()
}

/// Creates a temporary directory that PostgreSQL's user can enter.
pub fn reachable_dir() -> TempDir {
    let dir = TempDir::with_prefix("elephantasm-test-").unwrap();
    std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    dir
}

/// Polls until `poll` returns `Some`; panics after [`PATIENCE`].
pub async fn eventually<T>(what: &str, mut poll: impl AsyncFnMut() -> Option<T>) -> T {
    const POLL_INTERVAL: Duration = Duration::from_millis(10);
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = poll().await {
            return value;
        }
        assert!(
            Instant::now() < deadline,
            "did not happen within {PATIENCE:?}: {what}"
        );
        sleep(POLL_INTERVAL).await;
    }
}

/// Sets a pool of this size that only calls use: a notification could take the connection that a test counts on.
pub fn set_pool_of_calls(settings: &mut Settings, size: u32) {
    settings.store.pool_size = size;
    settings.store.live.listen.notify = false;
}

/// Sets small limits, so that tests reach them with little data.
pub fn small_limits(settings: &mut Settings) {
    let limits = &mut settings.server.limits;
    (limits.content_bytes_max, limits.meta_bytes_max) = (1_000, 200);
}
