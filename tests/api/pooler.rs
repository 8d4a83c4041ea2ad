//! Behind PgBouncer: in transaction mode with the switch, refused without it, and in session mode.

use std::sync::Arc;
use std::time::Duration;

use elephantasm_events::grpc::pb::{
    CountEventsRequest, GetEventRequest, GetSpiritRequest, UpdateEventRequest,
};
use futures_util::future::join_all;
use sqlx::Connection as _;
use tokio::time::{Instant, timeout};
use tonic::Code;

use crate::builders::{create, event, keyed, list, mask, refused};
use crate::harness::{Database, Settings, TestServer, eventually};
use crate::live::{now, watch};
use crate::pgbouncer::{IGNORE, Mode, PgBouncer, program};

const NEVER: Duration = Duration::from_secs(3_600);
/// Spirits with events of their own, the first with one and each with one more.
const SPIRITS: usize = 12;
/// Server connections for the many connections of a server.
const FEW: u32 = 3;
/// One for each connection of a server.
const ENOUGH: u32 = 20;

/// A database behind a pooler of its own.
struct Place {
    database: Arc<Database>,
    pooler: PgBouncer,
}

impl Place {
    async fn new(mode: Mode, more: &str) -> Self {
        let database = Arc::new(Database::create().await);
        let pool_size = match mode {
            Mode::Transaction => FEW,
            Mode::Session => ENOUGH,
        };
        let pooler = PgBouncer::start(&database.connect, mode, pool_size, more).await;
        Self { database, pooler }
    }

    async fn serve(&self, set: impl FnOnce(&mut Settings)) -> anyhow::Result<TestServer> {
        let through = self
            .pooler
            .connect_options(self.database.connect.get_database().unwrap());
        let mut settings = Settings::default();
        set(&mut settings);
        TestServer::start_through(Arc::clone(&self.database), through, settings).await
    }

    /// With the switch and a way around the pooler.
    async fn transactional(&self) -> TestServer {
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
    async fn nothing_is_open(&self) {
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
        let place = Place::new(Mode::Transaction, &format!("{IGNORE}\n{more}")).await;
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
    assert!(refusal.contains(IGNORE), "{refusal}");
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
    let place = Place::new(Mode::Session, IGNORE).await;
    let few = |settings: &mut Settings| settings.store.pool_size = 1;
    let server = place.serve(few).await.unwrap();
    let spirit_id = server.spirit().await;
    let created = create(&mut server.events(), event(&spirit_id)).await;
    assert_eq!(created.sequence, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_reads_at_once_through_a_few_connections_each_get_their_own_rows() {
    if program().is_none() {
        return;
    }
    let place = Place::new(Mode::Transaction, "").await;
    let server = place.transactional().await;
    let mut spirits = Vec::new();
    for n in 0..SPIRITS {
        let spirit_id = server.spirit().await;
        let mut last = None;
        for _ in 0..=n {
            last = Some(create(&mut server.events(), event(&spirit_id)).await);
        }
        spirits.push((spirit_id, last.unwrap()));
    }
    let read = async |n: usize| {
        let (spirit_id, last) = &spirits[n % SPIRITS];
        let count = i64::try_from(n % SPIRITS).unwrap() + 1;
        let mut events = server.events();
        match n % 4 {
            0 => {
                let request = GetEventRequest {
                    event_id: last.id.clone(),
                    ..GetEventRequest::default()
                };
                let event = events
                    .get_event(request)
                    .await
                    .unwrap()
                    .into_inner()
                    .event
                    .unwrap();
                assert_eq!((event.spirit_id(), event.sequence), (spirit_id.as_str(), count));
            }
            1 => {
                let page = events.list_events(list(spirit_id)).await.unwrap().into_inner();
                assert_eq!(i64::try_from(page.events.len()).unwrap(), count);
                assert!(page.events.iter().all(|event| event.spirit_id() == spirit_id));
            }
            2 => {
                let request = GetSpiritRequest {
                    spirit_id: spirit_id.clone(),
                    ..GetSpiritRequest::default()
                };
                let spirit = server.spirits().get_spirit(request).await.unwrap().into_inner();
                let spirit = spirit.spirit.unwrap();
                assert_eq!((&spirit.id, spirit.last_sequence), (spirit_id, count));
            }
            _ => {
                let request = CountEventsRequest {
                    spirit_id: spirit_id.clone(),
                    ..CountEventsRequest::default()
                };
                let counted = events.count_events(request).await.unwrap().into_inner();
                assert_eq!(counted.count, count);
            }
        }
    };
    // Each of the four kinds for each of the spirits, many times.
    join_all((0..600).map(|n| read(n / 4 + n))).await;
    place.nothing_is_open().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn creates_at_once_through_a_few_connections_have_sequences_without_gaps_and_keep_their_keys() {
    if program().is_none() {
        return;
    }
    let place = Place::new(Mode::Transaction, "").await;
    let server = place.transactional().await;
    let (spirit_id, other) = (server.spirit().await, server.spirit().await);
    // Every fourth key is new; the others are taken, or being stored at the same time.
    let send = async |n: usize| {
        let mut request = keyed(&spirit_id, &format!("key {}", n / 4));
        if n.is_multiple_of(5) {
            request = event(&other);
        }
        server.events().create_event(request).await
    };
    let mut stored = 0;
    for _ in 0..3 {
        for result in join_all((0..200).map(send)).await {
            match result {
                Ok(_) => stored += 1,
                refusal => _ = refused(refusal, Code::AlreadyExists, "DUPLICATE_EVENT"),
            }
        }
    }
    let mut connection = place.database.connect().await;
    let found: Vec<(i64, i64, i64)> = sqlx::query_as(
        "select count(*), max(events.sequence), max(spirits.last_sequence)
         from events
         join spirits on spirits.id = spirit_id
         group by spirit_id
         order by count(*)",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    assert_eq!(found, [(50, 50, 50), (120, 120, 120)]);
    assert_eq!(stored, 170);
    place.nothing_is_open().await;
}

/// Sets the summary of an event, and makes sure beside the pooler that this is committed.
async fn set_summary(server: &TestServer, place: &Place, event_id: &str, summary: &str) {
    let updated = server.events().update_event(summarising(event_id, summary)).await;
    updated.unwrap();
    let mut connection = place.database.connect().await;
    let (found,): (String,) = sqlx::query_as("select meta_summary from events where id = $1")
        .bind(event_id.parse::<uuid::Uuid>().unwrap())
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(found, summary);
}

fn summarising(event_id: &str, summary: &str) -> UpdateEventRequest {
    UpdateEventRequest {
        event_id: event_id.to_owned(),
        meta_summary: Some(summary.to_owned()),
        update_mask: mask(&["meta_summary"]),
        ..UpdateEventRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_calls_leave_no_transaction_open_and_lose_nothing_that_follows() {
    if program().is_none() {
        return;
    }
    let place = Place::new(Mode::Transaction, "").await;
    let server = place.transactional().await;
    let spirit_id = server.spirit().await;
    let event_id = create(&mut server.events(), event(&spirit_id)).await.id;
    let call = async |n: u64| {
        let mut events = server.events();
        match n % 3 {
            0 => _ = events.list_events(list(&spirit_id)).await,
            1 => _ = events.update_event(summarising(&event_id, "cancelled")).await,
            _ => _ = events.create_event(event(&spirit_id)).await,
        }
    };
    let mut cancelled = 0;
    for round in 0..20 {
        let calls = (0..30).map(|n| timeout(Duration::from_micros(150 * n * (round % 4 + 1)), call(n)));
        let ended = join_all(calls).await;
        cancelled += ended.into_iter().filter(Result::is_err).count();
    }
    assert!(cancelled > 100, "{cancelled} calls were cancelled");
    place.nothing_is_open().await;

    // More than there are connections, so that each takes part.
    for n in 0..40 {
        set_summary(&server, &place, &event_id, &format!("summary {n}")).await;
    }
    join_all((0..40).map(|_| async {
        let page = server.events().list_events(list(&spirit_id)).await;
        let events = page.unwrap().into_inner().events;
        assert!(!events.is_empty());
        assert!(events.iter().all(|event| event.spirit_id() == spirit_id));
    }))
    .await;
    place.nothing_is_open().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_out_of_time_is_stopped_by_the_database_and_its_transaction_ended() {
    if program().is_none() {
        return;
    }
    let place = Place::new(Mode::Transaction, "").await;
    let direct = place.database.connect.clone();
    let server = place.serve(|settings| {
        settings.store.transaction_pooler = true;
        settings.store.direct = Some(direct);
        settings.store.statement_timeout = Duration::from_millis(300);
    });
    let server = server.await.unwrap();
    let spirit_id = server.spirit().await;
    let event_id = create(&mut server.events(), event(&spirit_id)).await.id;
    let mut connection = place.database.connect().await;
    let mut holder = connection.begin().await.unwrap();
    sqlx::query("select id from events for update")
        .execute(&mut *holder)
        .await
        .unwrap();
    // More than there are connections.
    for _ in 0..=FEW {
        let late = server.events().update_event(summarising(&event_id, "late")).await;
        refused(late, Code::DeadlineExceeded, "DEADLINE");
    }
    holder.rollback().await.unwrap();
    drop(connection);
    place.nothing_is_open().await;
    set_summary(&server, &place, &event_id, "in time").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_was_away_is_used_again() {
    if program().is_none() {
        return;
    }
    let mut place = Place::new(Mode::Transaction, "").await;
    let server = place.transactional().await;
    let spirit_id = server.spirit().await;
    create(&mut server.events(), event(&spirit_id)).await;
    place.pooler.stop();
    let away = server.events().list_events(list(&spirit_id)).await;
    refused(away, Code::Unavailable, "DATABASE_UNAVAILABLE");
    place.pooler.run().await;
    eventually("creates work again", async || {
        server.events().create_event(event(&spirit_id)).await.ok()
    })
    .await;
    let page = server.events().list_events(list(&spirit_id)).await;
    let sequences: Vec<i64> = page
        .unwrap()
        .into_inner()
        .events
        .iter()
        .map(|event| event.sequence)
        .collect();
    assert_eq!(sequences.len(), 2);
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
