//! Databases of the tests, in a PostgreSQL that they share.

use std::str::FromStr as _;
use std::sync::{Arc, Weak};

use elephantasm_events::embedded_postgres::{EmbeddedPostgres, Options};
use elephantasm_events::store::{Sharding, Store, StoreSettings};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgConnection};
use tempfile::TempDir;
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::support::citus::{CitusCluster, Template};
use crate::support::harness::{Settings, reachable_dir};
use crate::support::pgbouncer::Pooler;

/// A database for one test, in the PostgreSQL that all tests of the process share or in one of the test's
/// own.
pub struct Database {
    /// Connect options of PostgreSQL itself, bypassing any pooler.
    pub connect: PgConnectOptions,
    /// Keeps the shared PostgreSQL running.
    postgres: Option<Arc<Postgres>>,
}

impl Database {
    /// Creates a database with the service's schema in the shared PostgreSQL.
    pub async fn create() -> Self {
        let postgres = Postgres::shared().await;
        let connect = match (&postgres.citus, &postgres.distributed) {
            (Some(citus), Some(template)) => citus.create_from(template).await,
            _ => create_database(&postgres.connect, &postgres.migrated).await,
        };
        Self {
            connect,
            postgres: Some(postgres),
        }
    }

    /// Creates a database without any table in the shared PostgreSQL.
    pub async fn empty() -> Self {
        let postgres = Postgres::shared().await;
        Self {
            connect: match &postgres.citus {
                Some(citus) => citus.create_empty().await,
                None => create_database(&postgres.connect, EMPTY).await,
            },
            postgres: Some(postgres),
        }
    }

    /// A database in a PostgreSQL that the test runs itself.
    pub fn external(connect: PgConnectOptions) -> Self {
        Self {
            connect,
            postgres: None,
        }
    }

    /// Connect options of a server: through the pooler, if the tests run behind one.
    pub fn server_connect_options(&self, settings: &mut StoreSettings) -> PgConnectOptions {
        let Some((pooler, name)) = self.pooler() else {
            return self.connect.clone();
        };
        settings.direct = Some(self.connect.clone());
        settings.transaction_pooler = pooler.needs_setting;
        pooler.program.connect_options(name)
    }

    /// Sets on the database the settings that a pooler drops from connections; docs/operations.md sets them
    /// for the role.
    pub(super) async fn set_dropped_settings(&self, settings: &StoreSettings) {
        let Some((_, name)) = self.pooler().filter(|(pooler, _)| !pooler.needs_setting) else {
            return;
        };
        let timeout = settings.statement_timeout.as_millis();
        let alter = format!(
            "alter database {name} set statement_timeout = {timeout};
             alter database {name} set jit = off;
             alter database {name} set enable_seqscan = off;
             alter database {name} set plan_cache_mode = force_generic_plan;
             alter database {name} set max_parallel_workers_per_gather = 0;
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

    /// Opens a connection of the test's own, beside the server's.
    pub async fn connect(&self) -> PgConnection {
        self.connect.connect().await.unwrap()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let Some(citus) = self
            .postgres
            .as_ref()
            .and_then(|postgres| postgres.citus.as_ref())
        else {
            return;
        };
        let name = self.connect.get_database().unwrap_or_default();
        block_on(citus.drop_database(name));
    }
}

/// Runs a future to its end in another thread, since `drop` cannot block on the test's own runtime.
fn block_on<T: Send>(future: impl Future<Output = T> + Send) -> T {
    std::thread::scope(|scope| {
        let done = scope.spawn(|| tokio::runtime::Runtime::new().unwrap().block_on(future));
        done.join().unwrap()
    })
}

/// The PostgreSQL that the tests share: the one at `TEST_DATABASE_URL`, or a private one that stops with the
/// last test that uses it. The private one runs without fsync, since no test on it is about durability.
struct Postgres {
    connect: PgConnectOptions,
    /// Name of the database with the service's schema that is copied for each test: faster than to migrate a new one.
    migrated: String,
    pooler: Option<Pooler>,
    /// The cluster of this coordinator, if the tests run on one, and the database with the distributed tables.
    citus: Option<CitusCluster>,
    distributed: Option<Template>,
    private: Option<(EmbeddedPostgres, TempDir)>,
}

/// PostgreSQL's own empty database.
const EMPTY: &str = "template1";

static SHARED: Mutex<Weak<Postgres>> = Mutex::const_new(Weak::new());

impl Postgres {
    async fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().await;
        if let Some(running) = shared.upgrade() {
            return running;
        }
        let mut started = Self::start().await;
        let migrated = create_migrated_database(&started).await;
        started.migrated = migrated.get_database().unwrap().to_owned();
        if let Some(citus) = &started.citus {
            started.distributed = Some(citus.template(migrated).await);
        }
        started.pooler = Pooler::start(&started.connect).await;
        let started = Arc::new(started);
        *shared = Arc::downgrade(&started);
        started
    }

    async fn start() -> Self {
        if let Some(citus) = CitusCluster::from_env().await {
            let mut at = Self::at(citus.coordinator().clone());
            at.citus = Some(citus);
            return at;
        }
        if let Ok(url) = std::env::var("TEST_DATABASE_URL") {
            return Self::at(PgConnectOptions::from_str(&url).unwrap());
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
        let connect = postgres.connect_options("postgres");
        let mut started = Self::at(connect);
        started.private = Some((postgres, dir));
        started
    }

    /// A running PostgreSQL.
    fn at(connect: PgConnectOptions) -> Self {
        Self {
            connect,
            migrated: String::new(),
            pooler: None,
            citus: None,
            distributed: None,
            private: None,
        }
    }
}

/// Creates a database as a copy of another and returns its connect options.
async fn create_database(postgres: &PgConnectOptions, template: &str) -> PgConnectOptions {
    let name = format!("test_{}", Uuid::now_v7().simple());
    let create = format!("create database {name} template {template}");
    let mut connection = postgres.connect().await.unwrap();
    sqlx::query(AssertSqlSafe(create))
        .execute(&mut connection)
        .await
        .unwrap();
    postgres.clone().database(&name)
}

/// Creates a database with the service's schema, to which nothing is connected.
async fn create_migrated_database(postgres: &Postgres) -> PgConnectOptions {
    let connect = match &postgres.citus {
        Some(citus) => citus.create_empty().await,
        None => create_database(&postgres.connect, EMPTY).await,
    };
    let mut settings = Settings::default().store;
    settings.sharding = Sharding::None;
    let store = Store::open(connect.clone(), settings);
    store.migrate().await.unwrap();
    store.close().await;
    connect
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.pooler = None;
        if let Some(citus) = &self.citus {
            block_on(citus.drop_database(&self.migrated));
        }
        let Some((postgres, dir)) = self.private.take() else {
            return;
        };
        block_on(postgres.stop()).unwrap();
        drop(dir);
    }
}
