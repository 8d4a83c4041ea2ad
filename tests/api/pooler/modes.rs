//! Behind PgBouncer: which ways are refused at the start, which are not, and how streams live there. Calls in numbers are
//! in [`pooler_load`](crate::pooler::under_load).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::AssertSqlSafe;
use tempfile::NamedTempFile;
use tokio::time::Instant;
use tracing::Level;

use crate::support::builders::{create, event};
use crate::support::harness::{Database, Settings, TestServer, eventually};
use crate::support::live::{now, watch};
use crate::support::pgbouncer::{
    IGNORE_OPTIONS, MAX_PREPARED_STATEMENTS, Mode, PgBouncer, program, supports_prepared_statements,
};

const NEVER: Duration = Duration::from_secs(3_600);
/// Server connections for the many connections of a server.
pub const FEW: u32 = 3;
/// One for each connection of a server.
const ENOUGH: u32 = 20;

/// A database behind a pooler of its own.
pub struct Place {
    pub database: Arc<Database>,
    pub pooler: PgBouncer,
}

impl Place {
    pub async fn new(mode: Mode, more: &str) -> Self {
        let database = Arc::new(Database::create().await);
        let pool_size = match mode {
            Mode::Transaction | Mode::Statement => FEW,
            Mode::Session => ENOUGH,
        };
        let pooler = PgBouncer::start(&database.connect, mode, pool_size, more).await;
        Self { database, pooler }
    }

    pub async fn serve(&self, set: impl FnOnce(&mut Settings)) -> anyhow::Result<TestServer> {
        let through = self
            .pooler
            .connect_options(self.database.connect.get_database().unwrap());
        let mut settings = Settings::default();
        set(&mut settings);
        TestServer::start_through(Arc::clone(&self.database), through, settings).await
    }

    /// With the switch and a way around the pooler.
    pub async fn transactional(&self) -> TestServer {
        let direct = self.database.connect.clone();
        let served = self.serve(|settings| {
            settings.store.transaction_pooler = true;
            settings.store.direct = Some(direct);
            settings.store.live.listen.poll_interval = NEVER;
        });
        served.await.unwrap()
    }

    /// Makes the schema, without the pooler.
    async fn migrate(&self) {
        let database = Arc::clone(&self.database);
        let through = database.connect.clone();
        let server = TestServer::start_through(database, through, Settings::default()).await;
        server.unwrap().stop().await.unwrap();
    }

    /// No connection of PostgreSQL is left in a transaction.
    pub async fn nothing_is_open(&self) {
        let mut connection = self.database.connect().await;
        eventually("every transaction ends", async || {
            let (open,): (i64,) = sqlx::query_as(
                "select count(*)
                 from pg_stat_activity
                 where datname = current_database()
                 and pid <> pg_backend_pid()
                 and state <> 'idle'",
            )
            .fetch_one(&mut connection)
            .await
            .unwrap();
            (open == 0).then_some(())
        })
        .await;
    }
}

/// What the server said when it ended at its start.
fn refusal(served: anyhow::Result<TestServer>) -> String {
    let error = served.err().expect("the server does not serve");
    format!("{error:#}")
}

#[tokio::test]
async fn a_pooler_that_mixes_statements_up_is_refused_at_start_and_the_switch_named() {
    if program().is_none() {
        return;
    }
    // The connection used last is used next, or the one that has been idle for longest.
    for more in ["", "server_round_robin = 1\nmin_pool_size = 3"] {
        let place = Place::new(Mode::Transaction, &format!("{IGNORE_OPTIONS}\n{more}")).await;
        let refusal = refusal(place.serve(|_| {}).await);
        assert!(refusal.contains("mixed up"), "{refusal}");
        assert!(refusal.contains("--pooler transaction"), "{refusal}");
    }
}

#[tokio::test]
async fn a_pooler_that_refuses_our_settings_is_refused_at_start_with_both_ways_out() {
    if program().is_none() {
        return;
    }
    let place = Place::new(Mode::Session, "").await;
    let refusal = refusal(place.serve(|_| {}).await);
    assert!(refusal.contains("--pooler transaction"), "{refusal}");
    assert!(refusal.contains(IGNORE_OPTIONS), "{refusal}");
}

#[tokio::test]
async fn a_pooler_in_statement_mode_is_refused_at_start_whatever_the_switch_says() {
    if program().is_none() {
        return;
    }
    // Where it follows prepared statements, each of them alone works.
    let follow = format!("{IGNORE_OPTIONS}\n{MAX_PREPARED_STATEMENTS} = 200");
    let settings = [IGNORE_OPTIONS, follow.as_str()];
    for more in &settings[..=usize::from(supports_prepared_statements())] {
        let place = Place::new(Mode::Statement, more).await;
        place.migrate().await;
        for switch in [false, true] {
            let refusal = refusal(
                place
                    .serve(|settings| settings.store.transaction_pooler = switch)
                    .await,
            );
            assert!(
                refusal.contains("pool_mode=statement is not supported"),
                "{refusal}"
            );
        }
    }
}

#[tokio::test]
async fn a_schema_that_is_not_up_to_date_is_refused_where_only_the_pooler_is_known() {
    if program().is_none() {
        return;
    }
    let place = Place::new(Mode::Transaction, "").await;
    let switch = |settings: &mut Settings| settings.store.transaction_pooler = true;
    let refusal = refusal(place.serve(switch).await);
    assert!(refusal.contains("version 0"), "{refusal}");
    assert!(refusal.contains("MIGRATION_DATABASE_URL"), "{refusal}");

    place.migrate().await;
    let server = place.serve(switch).await.unwrap();
    server.spirit().await;
}

#[tokio::test]
async fn a_pooler_in_session_mode_needs_no_switch() {
    if program().is_none() {
        return;
    }
    let place = Place::new(Mode::Session, IGNORE_OPTIONS).await;
    let few = |settings: &mut Settings| settings.store.pool_size = 1;
    let server = place.serve(few).await.unwrap();
    let spirit_id = server.spirit().await;
    let created = create(&mut server.events(), event(&spirit_id)).await;
    assert_eq!(created.sequence, 1);
}

/// The statements that a server's start logs as the repair of settings that did not arrive.
async fn repair(place: &Place) -> Option<String> {
    let log = NamedTempFile::new().unwrap();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .with_max_level(Level::WARN)
        .with_writer(Mutex::new(log.reopen().unwrap()));
    // Of this thread, on which the whole test runs, its server included.
    let logging = tracing::subscriber::set_default(subscriber.finish());
    place.serve(|_| {}).await.unwrap().stop().await.unwrap();
    drop(logging);
    let log = std::fs::read_to_string(log.path()).unwrap();
    log.lines().find_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        Some(line["fields"]["repair"].as_str()?.to_owned())
    })
}

#[tokio::test]
async fn settings_that_a_pooler_drops_are_in_the_log_as_statements_that_set_them() {
    if program().is_none() {
        return;
    }
    let mut place = Place::new(Mode::Session, IGNORE_OPTIONS).await;
    let statements = repair(&place).await.expect("they are missing");
    // The database of the tests may have some of them by itself.
    for setting in [
        "statement_timeout = 30000",
        "idle_in_transaction_session_timeout = 30000",
        "enable_seqscan = off",
        "plan_cache_mode = force_generic_plan",
    ] {
        let statement = format!("alter role … set {setting};");
        assert!(statements.contains(&statement), "{setting} in {statements}");
    }

    // Other tests have the role, too.
    let database = place.database.connect.get_database().unwrap();
    let statements = statements.replace("role …", &format!("database {database}"));
    let mut connection = place.database.connect().await;
    sqlx::raw_sql(AssertSqlSafe(statements))
        .execute(&mut connection)
        .await
        .unwrap();
    // What it had connected before keeps its settings.
    place.pooler.stop();
    place.pooler.run().await;
    assert_eq!(repair(&place).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_hear_of_other_instances_by_listen_around_the_pooler() {
    if program().is_none() {
        return;
    }
    let place = Place::new(Mode::Transaction, "").await;
    let (here, there) = (place.transactional().await, place.transactional().await);
    let spirit_id = here.spirit().await;
    let mut watcher = watch(&there, now(&spirit_id)).await.unwrap();
    watcher.caught_up().await;
    // The polls that are the net come every ten seconds, and one may be due.
    let begun = Instant::now();
    for sequence in 1..=3 {
        create(&mut here.events(), event(&spirit_id)).await;
        assert_eq!(watcher.sequences(1).await, [sequence]);
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_poll_for_other_instances_events_where_only_the_pooler_is_known() {
    if program().is_none() {
        return;
    }
    let place = Place::new(Mode::Transaction, "").await;
    place.migrate().await;
    let polling = |settings: &mut Settings| {
        settings.store.transaction_pooler = true;
        settings.store.live.listen.poll_interval = Duration::from_millis(20);
    };
    let here = place.serve(polling).await.unwrap();
    let there = place.serve(polling).await.unwrap();
    let spirit_id = here.spirit().await;
    let mut watcher = watch(&there, now(&spirit_id)).await.unwrap();
    watcher.caught_up().await;
    let begun = Instant::now();
    for sequence in 1..=3 {
        create(&mut here.events(), event(&spirit_id)).await;
        assert_eq!(watcher.sequences(1).await, [sequence]);
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let mut connection = place.database.connect().await;
    let (listening,): (i64,) = sqlx::query_as(
        "select count(*) from pg_stat_activity where datname = current_database() and query ilike 'listen%'",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert_eq!(listening, 0, "nobody listens through the pooler");
}
