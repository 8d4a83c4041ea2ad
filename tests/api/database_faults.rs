//! A database that is ill rather than dead: callers are told soon to try again, health says so where
//! nothing works, what was acknowledged is committed, and the service heals by itself.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use elephantasm_events::grpc::pb::CreateEventRequest;
use elephantasm_events::grpc::pb::event_service_client::EventServiceClient;
use elephantasm_events::store::embedded::{EmbeddedPostgres, Options};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus::{self, NotServing, Serving};
use tonic_health::pb::health_client::HealthClient;

use crate::builders::{create, event, keyed, list};
use crate::harness::{
    Database, PATIENCE, Settings, TestServer, eventually, left_out_behind_pooler, reachable_dir,
};
use crate::proxy::{Proxy, Weather};

const CALLERS: usize = 8;
/// The limits of a server under test; a call may meet several of them one after another.
const LIMIT: Duration = Duration::from_secs(1);
/// Of reads; of each of two writers and those of its spirits that wait for a lock; LISTEN, the probe, keys.
const CONNECTIONS_MAX: i64 = 8 + 2 * 5 + 3;
/// In which every call is answered, whatever has happened to the database: acquiring a connection, a
/// statement or a flush that is tried twice, and a busy machine.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const SOCKET: &str = "run/.s.PGSQL.5432";

/// A PostgreSQL of the test's own.
struct Own {
    dir: TempDir,
    postgres: EmbeddedPostgres,
    database: Arc<Database>,
}

impl Own {
    async fn start(settings: &[(&str, &str)]) -> Self {
        let dir = reachable_dir();
        let postgres = start(&dir.path().join("data"), settings).await;
        let database = Arc::new(Database::elsewhere(postgres.connect_options("postgres")));
        Self {
            dir,
            postgres,
            database,
        }
    }

    async fn server(&self) -> TestServer {
        TestServer::start_on(Arc::clone(&self.database), impatient).await
    }

    async fn stop(self) {
        self.postgres.stop().await.unwrap();
        drop(self.dir);
    }
}

async fn start(data_dir: &Path, settings: &[(&str, &str)]) -> EmbeddedPostgres {
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let options = Options {
        data_dir: data_dir.to_owned(),
        bin_dir: std::env::var_os("PG_BIN_DIR").map(Into::into),
        settings: settings.iter().map(own).collect(),
    };
    EmbeddedPostgres::start(options).await.unwrap()
}

fn impatient(settings: &mut Settings) {
    settings.store.acquire_timeout = LIMIT;
    settings.store.statement_timeout = LIMIT;
    settings.store.ingest.flush_timeout = LIMIT;
    // What a network swallows no other limit ends.
    settings.server.call_limit = 5 * LIMIT;
}

/// Callers that create and list without pause, each create with a key of its own.
struct Load {
    shared: Arc<Shared>,
    callers: JoinSet<BTreeSet<String>>,
}

#[derive(Default)]
struct Shared {
    stored: AtomicUsize,
    refused: AtomicUsize,
    done: AtomicBool,
}

impl Load {
    fn start(server: &TestServer, spirit_id: &str) -> Self {
        let shared = Arc::<Shared>::default();
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            callers.spawn(call(
                server.events(),
                spirit_id.to_owned(),
                caller,
                Arc::clone(&shared),
            ));
        }
        Self { shared, callers }
    }

    /// Waits until so many more creates were acknowledged.
    async fn stores(&self, more: usize) {
        grows(&self.shared.stored, more, "creates are acknowledged").await;
    }

    /// Waits until so many more calls were refused.
    async fn is_refused(&self, more: usize) {
        grows(&self.shared.refused, more, "calls are refused").await;
    }

    /// Ends it; what was acknowledged is in the database, and that without a gap.
    async fn ends_all_there(self, connection: &mut PgConnection) {
        self.shared.done.store(true, Ordering::Release);
        let ended = timeout(PATIENCE, self.callers.join_all())
            .await
            .expect("callers end");
        let acknowledged: BTreeSet<String> = ended.into_iter().flatten().collect();
        let rows: Vec<(String, i64)> =
            sqlx::query_as("select dedupe_key, sequence from events order by sequence")
                .fetch_all(connection)
                .await
                .unwrap();
        let count = i64::try_from(rows.len()).unwrap();
        assert!(rows.iter().map(|(_, sequence)| *sequence).eq(1..=count), "a gap");
        let stored: BTreeSet<String> = rows.into_iter().map(|(key, _)| key).collect();
        let lost: Vec<_> = acknowledged.difference(&stored).collect();
        assert!(lost.is_empty(), "acknowledged and not stored: {lost:?}");
    }
}

async fn grows(counter: &AtomicUsize, more: usize, what: &str) {
    let enough = counter.load(Ordering::Acquire) + more;
    eventually(what, async || {
        (counter.load(Ordering::Acquire) >= enough).then_some(())
    })
    .await;
}

async fn call(
    mut events: EventServiceClient<Channel>,
    spirit_id: String,
    caller: usize,
    shared: Arc<Shared>,
) -> BTreeSet<String> {
    let mut acknowledged = BTreeSet::new();
    for round in 0.. {
        if shared.done.load(Ordering::Acquire) {
            break;
        }
        let key = format!("{caller}-{round}");
        let since = Instant::now();
        let created = events.create_event(keyed(&spirit_id, &key)).await.map(drop);
        if note(&shared, since, &created) {
            acknowledged.insert(key);
            shared.stored.fetch_add(1, Ordering::AcqRel);
        }
        let since = Instant::now();
        let listed = events.list_events(list(&spirit_id)).await.map(drop);
        note(&shared, since, &listed);
        if created.is_err() && listed.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await; // as a client would before it tries again
        }
    }
    acknowledged
}

/// Whether it was answered; if not, soon and with an error that says so.
fn note(shared: &Shared, since: Instant, answer: &Result<(), Status>) -> bool {
    assert!(
        since.elapsed() < ANSWER_WITHIN,
        "{:?} for {answer:?}",
        since.elapsed()
    );
    if let Err(status) = answer {
        let passing = [Code::Unavailable, Code::DeadlineExceeded];
        assert!(passing.contains(&status.code()), "{status:?}");
        shared.refused.fetch_add(1, Ordering::AcqRel);
    }
    answer.is_ok()
}

async fn health_turns(server: &TestServer, wanted: ServingStatus) {
    let mut health = HealthClient::new(server.channel());
    eventually("health turns", async || {
        let answer = health.check(HealthCheckRequest::default()).await.unwrap();
        (answer.into_inner().status() == wanted).then_some(())
    })
    .await;
}

/// Connections of the server, at any time no more than its settings say.
async fn connections(connection: &mut PgConnection) -> i64 {
    let (count,) = sqlx::query_as(
        "select count(*) from pg_stat_activity where application_name like 'elephantasm-events%'",
    )
    .fetch_one(connection)
    .await
    .unwrap();
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_is_slow_cut_or_swallows_everything_is_survived() {
    if left_out_behind_pooler("the network here is between the service and a PostgreSQL of its own") {
        return;
    }
    let own = Own::start(&[("fsync", "off")]).await;
    let proxy = Proxy::start(own.dir.path().join("data").join(SOCKET)).await;
    let password = std::fs::read_to_string(own.dir.path().join("data/password")).unwrap();
    let through = PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(proxy.addr.port())
        .username("elephantasm")
        .password(&password)
        .ssl_mode(PgSslMode::Disable)
        .database("postgres");
    let server = TestServer::start_on(Arc::new(Database::elsewhere(through)), impatient).await;
    let spirit_id = server.spirit().await;
    let mut beside = own.database.connect().await;
    let load = Load::start(&server, &spirit_id);
    load.stores(50).await;
    proxy.turn(Weather::Slow(Duration::from_millis(30)));
    load.stores(20).await;
    for weather in [Weather::Cut, Weather::Swallowing] {
        proxy.turn(weather);
        load.is_refused(20).await;
        health_turns(&server, NotServing).await;
        proxy.turn(Weather::Fair);
        health_turns(&server, Serving).await;
        load.stores(50).await;
    }
    eventually("no more connections than the settings allow", async || {
        let count = connections(&mut beside).await;
        (count <= CONNECTIONS_MAX).then_some(())
    })
    .await;
    load.ends_all_there(&mut beside).await;
    server.stop().await.unwrap();
    own.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_free_connections_is_unavailable_until_there_are_some() {
    let own = Own::start(&[
        ("fsync", "off"),
        ("max_connections", "12"),
        ("superuser_reserved_connections", "0"),
    ])
    .await;
    let mut first = own.database.connect().await;
    let server = own.server().await;
    let spirit_id = server.spirit().await;
    // Somebody else takes what there is, before the server has made all the connections that it may make.
    let mut others = Vec::new();
    while let Ok(other) = sqlx::ConnectOptions::connect(&own.database.connect).await {
        others.push(other);
    }
    let load = Load::start(&server, &spirit_id);
    load.is_refused(10).await;
    for other in others {
        other.close().await.unwrap();
    }
    load.stores(50).await;
    health_turns(&server, Serving).await;
    load.ends_all_there(&mut first).await;
    server.stop().await.unwrap();
    drop(first);
    own.stop().await;
}

async fn alter(connection: &mut PgConnection, setting: &str) {
    for sql in [
        format!("alter system set {setting}"),
        "select pg_reload_conf()".to_owned(),
    ] {
        sqlx::query(AssertSqlSafe(sql))
            .execute(&mut *connection)
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_read_only_for_a_while_is_read_and_refuses_creates() {
    let own = Own::start(&[("fsync", "off")]).await;
    let server = own.server().await;
    let spirit_id = server.spirit().await;
    let mut beside = own.database.connect().await;
    let load = Load::start(&server, &spirit_id);
    load.stores(50).await;
    alter(&mut beside, "default_transaction_read_only = on").await;
    load.is_refused(20).await;
    let mut events = server.events();
    let refused = eventually("a create is refused", async || {
        events.create_event(event(&spirit_id)).await.err()
    })
    .await;
    assert_eq!(refused.code(), Code::Unavailable);
    let listed = events.list_events(list(&spirit_id)).await.unwrap().into_inner();
    assert!(!listed.events.is_empty(), "it is read all the same");
    // Changing it back is a write, which the session has to ask for.
    sqlx::query("set default_transaction_read_only = off")
        .execute(&mut beside)
        .await
        .unwrap();
    alter(&mut beside, "default_transaction_read_only = off").await;
    load.stores(50).await;
    let own_creates = sqlx::query("delete from events where dedupe_key is null");
    own_creates.execute(&mut beside).await.unwrap();
    load.ends_all_there(&mut beside).await;
    server.stop().await.unwrap();
    own.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_behind_a_lock_are_given_up_and_go_on_after_it() {
    let own = Own::start(&[("fsync", "off")]).await;
    let server = own.server().await;
    let spirit_id = server.spirit().await;
    let (mut holder, mut beside) = (own.database.connect().await, own.database.connect().await);
    let load = Load::start(&server, &spirit_id);
    load.stores(50).await;
    let usual = connections(&mut beside).await;
    let mut lock = holder.begin().await.unwrap();
    sqlx::query("lock table events, spirits in access exclusive mode")
        .execute(&mut *lock)
        .await
        .unwrap();
    load.is_refused(20).await;
    assert!(
        connections(&mut beside).await <= usual + 10,
        "what is stuck makes no connections"
    );
    lock.rollback().await.unwrap();
    load.stores(50).await;
    load.ends_all_there(&mut beside).await;
    server.stop().await.unwrap();
    own.stop().await;
}

/// A small file system in memory; only root can make one, and not in every container.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount(mebibytes: usize) -> Option<Self> {
        let dir = reachable_dir();
        let size = format!("size={mebibytes}m,mode=755");
        let path = dir.path().to_str().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs", path])
            .output();
        mounted
            .is_ok_and(|output| output.status.success())
            .then_some(Self(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.0.path()).status();
        assert!(unmounted.unwrap().success() || std::thread::panicking());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_creates_and_loses_nothing() {
    let Some(disk) = SmallDisk::mount(220) else {
        eprintln!("SKIPPED: no tmpfs can be mounted here; root can");
        return;
    };
    let data_dir = disk.0.path().join("data");
    let settings = [
        ("fsync", "off"),
        ("max_wal_size", "64MB"),
        ("min_wal_size", "32MB"),
    ];
    let postgres = start(&data_dir, &settings).await;
    let database = Arc::new(Database::elsewhere(postgres.connect_options("postgres")));
    let server = TestServer::start_on(Arc::clone(&database), impatient).await;
    let spirit_id = server.spirit().await;
    let ballast = disk.0.path().join("ballast");
    std::fs::write(&ballast, vec![1; 30 * 1024 * 1024]).unwrap();

    let mut events = server.events();
    let mut acknowledged = BTreeSet::new();
    // Random letters, which do not get much smaller when they are stored.
    let content = || {
        std::iter::repeat_with(fastrand::alphanumeric)
            .take(300_000)
            .collect()
    };
    let full = loop {
        let key = acknowledged.len().to_string();
        let request = CreateEventRequest {
            content: Some(content()),
            ..keyed(&spirit_id, &key)
        };
        match events.create_event(request).await {
            Ok(_) => acknowledged.insert(key),
            Err(status) => break status,
        };
        assert!(acknowledged.len() < 2_000, "the disk never gets full");
    };
    assert_eq!(full.code(), Code::Unavailable, "{full:?}");
    std::fs::remove_file(&ballast).unwrap();
    eventually("there is room again", async || {
        server
            .events()
            .create_event(keyed(&spirit_id, "after"))
            .await
            .ok()
    })
    .await;
    acknowledged.insert("after".to_owned());
    let rows: Vec<(String,)> = sqlx::query_as("select dedupe_key from events")
        .fetch_all(&mut database.connect().await)
        .await
        .unwrap();
    let stored: BTreeSet<String> = rows.into_iter().map(|(key,)| key).collect();
    assert!(acknowledged.is_subset(&stored));
    assert_eq!(
        create(&mut server.events(), event(&spirit_id)).await.sequence,
        i64::try_from(stored.len()).unwrap() + 1
    );
    server.stop().await.unwrap();
    postgres.stop().await.unwrap();
}
