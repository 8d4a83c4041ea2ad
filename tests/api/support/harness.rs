//! A real server for each test, on a database of its own.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::str::FromStr as _;
use std::sync::{Arc, Weak};
use std::time::Duration;

use elephantasm_events::config::ServeArgs;
use elephantasm_events::domain::limits::Limits;
use elephantasm_events::embedded_postgres::{EmbeddedPostgres, Options};
use elephantasm_events::grpc::pb::CreateSpiritRequest;
use elephantasm_events::grpc::pb::event_service_client::EventServiceClient;
use elephantasm_events::grpc::pb::spirit_service_client::SpiritServiceClient;
use elephantasm_events::server::{self, Listeners, ServerSettings};
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

use crate::support::pgbouncer::{FOLLOW, IGNORE, Mode, PgBouncer};

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
    /// Where operators ask.
    pub admin: std::net::SocketAddr,
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
        let through = database.pooled(&mut settings.store);
        set(&mut settings);
        database.keep(&settings.store).await;
        let started = Self::start_through(database, through, settings).await;
        started.unwrap_or_else(|error| panic!("the server ended at its start: {error:?}"))
    }

    /// A server that reaches the database so. Returns when it is ready, or ended at its start.
    pub async fn start_through(
        database: Arc<Database>,
        through: PgConnectOptions,
        settings: Settings,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let for_operators = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let admin = for_operators.local_addr().unwrap();
        let listeners = Listeners {
            calls: listener,
            admin: Some(for_operators),
        };
        let store = Store::open(through, settings.store);
        let shutdown = CancellationToken::new();
        let (ready, is_ready) = oneshot::channel();
        let plain = settings.server.tls.is_none();
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
            channel: if plain {
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
    /// To PostgreSQL itself.
    pub connect: PgConnectOptions,
    postgres: Option<Arc<Postgres>>,
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
            postgres: Some(postgres),
        }
    }

    /// One in a PostgreSQL that the test runs itself.
    pub fn elsewhere(connect: PgConnectOptions) -> Self {
        Self {
            connect,
            postgres: None,
        }
    }

    /// How a server connects: through the pooler that the tests run behind.
    fn pooled(&self, settings: &mut StoreSettings) -> PgConnectOptions {
        let Some((pooler, name)) = self.pooler() else {
            return self.connect.clone();
        };
        settings.direct = Some(self.connect.clone());
        settings.transaction_pooler = pooler.switch;
        pooler.program.connect_options(name)
    }

    /// Keeps the settings that a pooler drops with the database, as docs/operations.md says.
    async fn keep(&self, settings: &StoreSettings) {
        let Some((Pooler { switch: false, .. }, name)) = self.pooler() else {
            return;
        };
        let timeout = settings.statement_timeout.as_millis();
        let alter = format!(
            "alter database {name} set statement_timeout = {timeout};
             alter database {name} set jit = off;
             alter database {name} set enable_seqscan = off;
             alter database {name} set plan_cache_mode = force_generic_plan;
             alter database {name} set idle_in_transaction_session_timeout = {timeout}"
        );
        let mut connection = self.connect().await;
        sqlx::raw_sql(AssertSqlSafe(alter))
            .execute(&mut connection)
            .await
            .unwrap();
    }

    fn pooler(&self) -> Option<(&Pooler, &str)> {
        let pooler = self.postgres.as_ref()?.pooler.as_ref()?;
        Some((pooler, self.connect.get_database()?))
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
    pooler: Option<Pooler>,
    private: Option<(EmbeddedPostgres, TempDir)>,
}

static SHARED: Mutex<Weak<Postgres>> = Mutex::const_new(Weak::new());

impl Postgres {
    async fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().await;
        if let Some(running) = shared.upgrade() {
            return running;
        }
        let mut started = Self::start().await;
        started.pooler = Pooler::start(&started.connect).await;
        let started = Arc::new(started);
        *shared = Arc::downgrade(&started);
        started
    }

    async fn start() -> Self {
        if let Ok(url) = std::env::var("TEST_DATABASE_URL") {
            return Self {
                connect: PgConnectOptions::from_str(&url).unwrap(),
                pooler: None,
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
            pooler: None,
            private: Some((postgres, dir)),
        }
    }
}

/// What stands before PostgreSQL when `EVENTS_TEST_POOLER` says so.
struct Pooler {
    program: PgBouncer,
    /// Whether the service needs to be told.
    switch: bool,
}

/// Which pooler the tests run behind, as the environment says.
fn pooler_wanted() -> Option<String> {
    std::env::var("EVENTS_TEST_POOLER").ok()
}

impl Pooler {
    async fn start(postgres: &PgConnectOptions) -> Option<Self> {
        // In transaction mode fewer than one server uses, so that they are shared.
        let (mode, pool_size, more) = match pooler_wanted()?.as_str() {
            "transaction" => (Mode::Transaction, 8, String::new()),
            "prepared" => (Mode::Transaction, 8, format!("{IGNORE}\n{FOLLOW} = 200")),
            "session" => (Mode::Session, 50, IGNORE.to_owned()),
            other => panic!("EVENTS_TEST_POOLER is {other}: none of transaction, prepared, session"),
        };
        Some(Self {
            switch: mode == Mode::Transaction && more.is_empty(),
            program: PgBouncer::start(postgres, mode, pool_size, &more).await,
        })
    }
}

/// Whether a test is left out since it is about what a pooler does itself; says why.
pub fn left_out_behind_pooler(why: &str) -> bool {
    left_out(pooler_wanted(), why)
}

/// The same, for a pooler that drops the settings of the service's connections.
pub fn left_out_without_settings(why: &str) -> bool {
    left_out(pooler_wanted().filter(|pooler| pooler != "transaction"), why)
}

fn left_out(behind: Option<String>, why: &str) -> bool {
    if let Some(pooler) = &behind {
        eprintln!("LEFT OUT behind a pooler ({pooler}): {why}");
    }
    behind.is_some()
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.pooler = None;
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
