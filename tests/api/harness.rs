//! A real server for each test, on a database of its own.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::str::FromStr as _;
use std::sync::{Arc, Weak};
use std::time::Duration;

use elephantasm_events::config::ServeArgs;
use elephantasm_events::domain::limits::Limits;
use elephantasm_events::grpc::pb::CreateSpiritRequest;
use elephantasm_events::grpc::pb::event_service_client::EventServiceClient;
use elephantasm_events::grpc::pb::spirit_service_client::SpiritServiceClient;
use elephantasm_events::server::{self, ServerSettings};
use elephantasm_events::store::embedded::{EmbeddedPostgres, Options};
use elephantasm_events::store::{Store, StoreSettings};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgConnection};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use uuid::Uuid;

/// After which something that a test waits for will not come.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Largest reply that a test's client accepts.
pub const REPLY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What a test sets differently from the defaults.
#[derive(Clone)]
pub struct Settings {
    pub store: StoreSettings,
    pub server: ServerSettings,
}

impl Default for Settings {
    /// The defaults of the binary.
    fn default() -> Self {
        let args = default_args();
        Self {
            store: args.database.store_settings(),
            server: args.server_settings().unwrap(),
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

/// A running server and the way to it. Dropping it ends the server.
pub struct TestServer {
    pub addr: std::net::SocketAddr,
    pub database: Arc<Database>,
    channel: Channel,
    shutdown: CancellationToken,
    served: JoinHandle<anyhow::Result<()>>,
}

impl TestServer {
    /// A server with default settings on a new database.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// A server with some settings of its own on a new database.
    pub async fn start_with(set: impl FnOnce(&mut Settings)) -> Self {
        Self::start_on(Arc::new(Database::create().await), set).await
    }

    /// A server on a database that others may use too. Returns when it is ready.
    pub async fn start_on(database: Arc<Database>, set: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::default();
        set(&mut settings);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let store = Store::open(database.connect.clone(), settings.store);
        let shutdown = CancellationToken::new();
        let (ready, is_ready) = oneshot::channel();
        let plain = settings.server.tls.is_none();
        let mut served = tokio::spawn(server::run(
            listener,
            store,
            settings.server,
            shutdown.clone(),
            ready,
        ));
        tokio::select! {
            ready = is_ready => ready.expect("the server ended before it was ready"),
            ended = &mut served => panic!("the server ended at its start: {ended:?}"),
            () = sleep(PATIENCE) => panic!("the server did not become ready"),
        }
        Self {
            addr,
            channel: if plain {
                connect(addr).await
            } else {
                endpoint(addr).connect_lazy()
            },
            database,
            shutdown,
            served,
        }
    }

    pub fn events(&self) -> EventServiceClient<Channel> {
        EventServiceClient::new(self.channel.clone())
            .max_decoding_message_size(REPLY_BYTES_MAX)
            .max_encoding_message_size(REPLY_BYTES_MAX)
    }

    pub fn spirits(&self) -> SpiritServiceClient<Channel> {
        SpiritServiceClient::new(self.channel.clone())
    }

    /// The connection that the clients share; of no use where TLS is spoken.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The id of a new spirit.
    pub async fn spirit(&self) -> String {
        let request = CreateSpiritRequest {
            name: "test".to_owned(),
            ..CreateSpiritRequest::default()
        };
        let response = self.spirits().create_spirit(request).await.unwrap();
        response.into_inner().spirit.unwrap().id
    }

    /// Tells the server to end, without waiting for it.
    pub fn shut_down(&self) {
        self.shutdown.cancel();
    }

    /// Ends the server in order and returns what it says.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        timeout(PATIENCE, self.served)
            .await
            .expect("the server ends")
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

/// A database of its own in the PostgreSQL that all tests of the process share.
pub struct Database {
    pub connect: PgConnectOptions,
    _postgres: Option<Arc<Postgres>>,
}

impl Database {
    pub async fn create() -> Self {
        let postgres = Postgres::shared().await;
        let name = format!("test_{}", Uuid::now_v7().simple());
        let mut connection = postgres.connect.connect().await.unwrap();
        sqlx::query(AssertSqlSafe(format!("create database {name}")))
            .execute(&mut connection)
            .await
            .unwrap();
        Self {
            connect: postgres.connect.clone().database(&name),
            _postgres: Some(postgres),
        }
    }

    /// One in a PostgreSQL that the test runs itself.
    pub fn elsewhere(connect: PgConnectOptions) -> Self {
        Self {
            connect,
            _postgres: None,
        }
    }

    /// A connection beside the server's.
    pub async fn connect(&self) -> PgConnection {
        self.connect.connect().await.unwrap()
    }
}

/// The PostgreSQL of the tests: that of `TEST_DATABASE_URL`, or a private one that ends with the
/// last test that uses it. The private one does not fsync: nothing here tests the disk.
struct Postgres {
    connect: PgConnectOptions,
    private: Option<(EmbeddedPostgres, TempDir)>,
}

static SHARED: Mutex<Weak<Postgres>> = Mutex::const_new(Weak::new());

impl Postgres {
    async fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().await;
        if let Some(running) = shared.upgrade() {
            return running;
        }
        let started = Arc::new(Self::start().await);
        *shared = Arc::downgrade(&started);
        started
    }

    async fn start() -> Self {
        if let Ok(url) = std::env::var("TEST_DATABASE_URL") {
            return Self {
                connect: PgConnectOptions::from_str(&url).unwrap(),
                private: None,
            };
        }
        let dir = reachable_dir();
        let settings = [("fsync", "off"), ("max_connections", "300")];
        let postgres = EmbeddedPostgres::start(Options {
            data_dir: dir.path().join("data"),
            bin_dir: std::env::var_os("PG_BIN_DIR").map(Into::into),
            settings: settings
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        })
        .await
        .unwrap();
        Self {
            connect: postgres.connect_options("postgres"),
            private: Some((postgres, dir)),
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let Some((postgres, dir)) = self.private.take() else {
            return;
        };
        // A drop cannot wait on the test's own runtime.
        let stopped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(postgres.stop()).unwrap();
            drop(dir);
        });
        stopped.join().unwrap();
    }
}

/// A directory that PostgreSQL's user can pass through, too.
pub fn reachable_dir() -> TempDir {
    let dir = TempDir::with_prefix("elephantasm-test-").unwrap();
    std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    dir
}

/// Asks again and again until there is an answer, or patience ends.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    const PAUSE: Duration = Duration::from_millis(10);
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "never came: {what}");
        sleep(PAUSE).await;
    }
}

/// Small bounds, so that tests reach them with little data.
pub fn small_limits(settings: &mut Settings) {
    settings.server.limits = Limits {
        content_bytes_max: 1_000,
        meta_bytes_max: 200,
    };
}
