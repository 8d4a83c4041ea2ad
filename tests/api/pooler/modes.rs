//! Pool modes of PgBouncer: which ones the server rejects at start, and how live streams work behind a
//! pooler. Load is tested in [`under_load`](crate::pooler::under_load).

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use sqlx::{AssertSqlSafe, ConnectOptions as _};
use tempfile::NamedTempFile;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::{Instant, timeout};

use crate::support::builders::{create, event};
use crate::support::harness::{Database, PATIENCE, Settings, TestServer, eventually};
use crate::support::live::{Watcher, now, watch};
use crate::support::pgbouncer::{
    IGNORE_OPTIONS, MAX_PREPARED_STATEMENTS, Mode, PgBouncer, program, supports_prepared_statements,
};

const NEVER: Duration = Duration::from_secs(3_600);
/// Pool size in transaction and statement mode: fewer connections than the service opens to the pooler.
pub const SHARED_POOL_SIZE: u32 = 3;
/// Pool size in session mode: a connection for each connection of the service.
const SESSION_POOL_SIZE: u32 = 20;

/// A database behind a PgBouncer of its own.
pub struct PooledDatabase {
    pub database: Arc<Database>,
    pub pooler: PgBouncer,
}

impl PooledDatabase {
    /// Creates a database and starts a PgBouncer with further lines of configuration.
    pub async fn new(mode: Mode, more: &str) -> Self {
        let database = Arc::new(Database::empty().await);
        let pool_size = match mode {
            Mode::Transaction | Mode::Statement => SHARED_POOL_SIZE,
            Mode::Session => SESSION_POOL_SIZE,
        };
        let pooler = PgBouncer::start(&database.connect, mode, pool_size, more).await;
        Self { database, pooler }
    }

    /// Starts a server that reaches the database through the pooler.
    pub async fn serve(&self, set: impl FnOnce(&mut Settings)) -> anyhow::Result<TestServer> {
        let through = self
            .pooler
            .connect_options(self.database.connect.get_database().unwrap());
        let mut settings = Settings::default();
        set(&mut settings);
        TestServer::start_through(Arc::clone(&self.database), through, settings).await
    }

    /// Starts a server with `--pooler transaction` and a direct connection.
    pub async fn serve_in_transaction_mode(&self) -> TestServer {
        let direct = self.database.connect.clone();
        let server = self.serve(|settings| {
            settings.store.transaction_pooler = true;
            settings.store.direct = Some(direct);
            settings.store.live.listen.poll_interval = NEVER;
        });
        server.await.unwrap()
    }

    /// Creates the schema over a direct connection.
    async fn migrate(&self) {
        let database = Arc::clone(&self.database);
        let through = database.connect.clone();
        let server = TestServer::start_through(database, through, Settings::default()).await;
        server.unwrap().stop().await.unwrap();
    }

    /// Waits until every connection to the database but the test's own is idle and outside a transaction.
    pub async fn wait_until_idle(&self) {
        let mut connection = self.database.connect().await;
        eventually("every transaction ends", async || {
            let (busy,): (i64,) = sqlx::query_as(
                "select count(*)
                 from pg_stat_activity
                 where datname = current_database()
                 and pid <> pg_backend_pid()
                 and state <> 'idle'",
            )
            .fetch_one(&mut connection)
            .await
            .unwrap();
            (busy == 0).then_some(())
        })
        .await;
    }
}

/// The error that ended the server at its start.
fn startup_error(started: anyhow::Result<TestServer>) -> String {
    let error = started.err().expect("the server fails to start");
    format!("{error:#}")
}

#[tokio::test]
async fn startup_rejects_a_pooler_that_mixes_up_prepared_statements_and_names_the_pooler_option() {
    if program().is_none() {
        return;
    }
    // PgBouncer reuses the most recently used connection, or, in
    // round-robin, the one that has been idle longest.
    for more in ["", "server_round_robin = 1\nmin_pool_size = 3"] {
        let pooled = PooledDatabase::new(Mode::Transaction, &format!("{IGNORE_OPTIONS}\n{more}")).await;
        let error = startup_error(pooled.serve(|_| {}).await);
        assert!(error.contains("mixed up"), "{error}");
        assert!(error.contains("--pooler transaction"), "{error}");
    }
}

#[tokio::test]
async fn startup_rejects_a_pooler_that_refuses_startup_parameters_and_names_both_remedies() {
    if program().is_none() {
        return;
    }
    let pooled = PooledDatabase::new(Mode::Session, "").await;
    let error = startup_error(pooled.serve(|_| {}).await);
    assert!(error.contains("--pooler transaction"), "{error}");
    assert!(error.contains(IGNORE_OPTIONS), "{error}");
}

#[tokio::test]
async fn startup_rejects_a_pooler_in_statement_mode_with_and_without_the_pooler_option() {
    if program().is_none() {
        return;
    }
    // Where PgBouncer tracks prepared statements, single statements work in statement mode.
    let follow = format!("{IGNORE_OPTIONS}\n{MAX_PREPARED_STATEMENTS} = 200");
    let settings = [IGNORE_OPTIONS, follow.as_str()];
    for more in &settings[..=usize::from(supports_prepared_statements())] {
        let pooled = PooledDatabase::new(Mode::Statement, more).await;
        pooled.migrate().await;
        for has_option in [false, true] {
            let started = pooled.serve(|settings| settings.store.transaction_pooler = has_option);
            let error = startup_error(started.await);
            assert!(error.contains("pool_mode=statement is not supported"), "{error}");
        }
    }
}

#[tokio::test]
async fn startup_behind_a_pooler_without_a_direct_connection_rejects_an_outdated_schema() {
    if program().is_none() {
        return;
    }
    let pooled = PooledDatabase::new(Mode::Transaction, "").await;
    let with_option = |settings: &mut Settings| settings.store.transaction_pooler = true;
    let error = startup_error(pooled.serve(with_option).await);
    assert!(error.contains("version 0"), "{error}");
    assert!(error.contains("MIGRATION_DATABASE_URL"), "{error}");

    pooled.migrate().await;
    let server = pooled.serve(with_option).await.unwrap();
    server.spirit().await;
}

#[tokio::test]
async fn a_pooler_in_session_mode_works_without_the_pooler_option() {
    if program().is_none() {
        return;
    }
    let pooled = PooledDatabase::new(Mode::Session, IGNORE_OPTIONS).await;
    let single_connection = |settings: &mut Settings| settings.store.pool_size = 1;
    let server = pooled.serve(single_connection).await.unwrap();
    let spirit_id = server.spirit().await;
    let created = create(&mut server.events(), event(&spirit_id)).await;
    assert_eq!(created.sequence, 1);
}

/// The statements that a starting server logs to restore the session settings that it found missing. The server is a
/// process of its own, because a subscriber of one thread misses lines that another thread was the first to log.
async fn logged_repair(pooled: &PooledDatabase) -> Option<String> {
    let database = pooled.database.connect.get_database().unwrap();
    let through = pooled.pooler.connect_options(database);
    let log = NamedTempFile::new().unwrap();
    let mut server = Command::new(env!("CARGO_BIN_EXE_elephantasm-events"))
        .args([
            "--log-format",
            "json",
            "--log",
            "warn",
            "--database-url",
            through.to_url_lossy().as_str(),
        ])
        .env("EVENTS_LISTEN_ADDR", "127.0.0.1:0")
        .stdout(Stdio::piped())
        .stderr(log.reopen().unwrap())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(server.stdout.take().unwrap());
    let mut line = String::new();
    let listens = timeout(PATIENCE, stdout.read_line(&mut line)).await;
    listens.expect("the server listens in time").unwrap();
    server.kill().await.unwrap();
    let log = std::fs::read_to_string(log.path()).unwrap();
    assert!(line.starts_with("listening on "), "{line:?}\n{log}");
    log.lines().find_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        Some(line["fields"]["repair"].as_str()?.to_owned())
    })
}

#[tokio::test]
async fn session_settings_dropped_by_a_pooler_are_logged_as_statements_that_set_them() {
    if program().is_none() {
        return;
    }
    let mut pooled = PooledDatabase::new(Mode::Session, IGNORE_OPTIONS).await;
    let statements = logged_repair(&pooled).await.expect("a repair is logged");
    // The tests' database may have other session settings already.
    for setting in [
        "statement_timeout = 30000",
        "idle_in_transaction_session_timeout = 30000",
        "enable_seqscan = off",
        "plan_cache_mode = force_generic_plan",
        "max_parallel_workers_per_gather = 0",
    ] {
        let statement = format!("alter role … set {setting};");
        assert!(
            statements.contains(&statement),
            "{setting} is missing from {statements}"
        );
    }

    // Other tests share the role, so the settings go to the database.
    let database = pooled.database.connect.get_database().unwrap();
    let statements = statements.replace("role …", &format!("database {database}"));
    let mut connection = pooled.database.connect().await;
    sqlx::raw_sql(AssertSqlSafe(statements))
        .execute(&mut connection)
        .await
        .unwrap();
    // Connections that the pooler has already opened keep their settings.
    pooled.pooler.stop();
    pooled.pooler.run().await;
    assert_eq!(logged_repair(&pooled).await, None);
}

/// Creates three events on the server and asserts that the watcher of another server receives each. The default interval of
/// the fallback poll is ten seconds, and one may be due.
async fn receives_events_at_once(watcher: &mut Watcher, server: &TestServer, spirit_id: &str) {
    let start = Instant::now();
    for sequence in 1..=3 {
        create(&mut server.events(), event(spirit_id)).await;
        assert_eq!(watcher.sequences(1).await, [sequence]);
    }
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_behind_a_pooler_receive_notifications_over_a_direct_connection() {
    if program().is_none() {
        return;
    }
    let pooled = PooledDatabase::new(Mode::Transaction, "").await;
    let (first, second) = (
        pooled.serve_in_transaction_mode().await,
        pooled.serve_in_transaction_mode().await,
    );
    let spirit_id = first.spirit().await;
    let mut watcher = watch(&second, now(&spirit_id)).await.unwrap();
    watcher.caught_up().await;
    receives_events_at_once(&mut watcher, &first, &spirit_id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_behind_a_pooler_poll_for_events_without_a_direct_connection() {
    if program().is_none() {
        return;
    }
    let pooled = PooledDatabase::new(Mode::Transaction, "").await;
    pooled.migrate().await;
    let polling = |settings: &mut Settings| {
        settings.store.transaction_pooler = true;
        settings.store.live.listen.poll_interval = Duration::from_millis(20);
    };
    let first = pooled.serve(polling).await.unwrap();
    let second = pooled.serve(polling).await.unwrap();
    let spirit_id = first.spirit().await;
    let mut watcher = watch(&second, now(&spirit_id)).await.unwrap();
    watcher.caught_up().await;
    receives_events_at_once(&mut watcher, &first, &spirit_id).await;
    let mut connection = pooled.database.connect().await;
    let (listening,): (i64,) = sqlx::query_as(
        "select count(*) from pg_stat_activity where datname = current_database() and query ilike 'listen%'",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert_eq!(listening, 0, "a server listens through the pooler");
}
