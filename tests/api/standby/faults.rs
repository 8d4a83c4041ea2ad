//! A standby that is late, away, in the way of replication or not the right one: readers notice nothing.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use elephantasm_events::store::StandbySettings;
use sqlx::Connection as _;
use sqlx::postgres::PgConnectOptions;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::standby::reads::{FOR_EVER, Pair, count, is_read, lag, reads};
use crate::support::builders::{create, event, event_at, fill, get, stream};
use crate::support::cluster::Cluster;
use crate::support::harness::{Database, PATIENCE, TestServer, eventually};
use crate::support::live::{Item, Reader};
use crate::support::pgbouncer::{self, IGNORE, Mode, PgBouncer};
use crate::support::proxy::{Proxy, Weather};

const SECOND: Duration = Duration::from_secs(1);

/// Callers who count a spirit's events all the time, and want the same answer each time.
struct Readers {
    done: Arc<AtomicBool>,
    callers: JoinSet<()>,
}

impl Readers {
    fn start(pair: &Pair, spirit_id: &str, answer: i64) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let mut callers = JoinSet::new();
        for _ in 0..4 {
            let (mut events, request, done) = (pair.server.events(), count(spirit_id), Arc::clone(&done));
            callers.spawn(async move {
                while !done.load(Ordering::Acquire) {
                    let counted = events.count_events(request.clone()).await.unwrap();
                    assert_eq!(counted.into_inner().count, answer);
                }
            });
        }
        Self { done, callers }
    }

    async fn end(self) {
        self.done.store(true, Ordering::Release);
        timeout(PATIENCE, self.callers.join_all())
            .await
            .expect("callers end");
    }
}

/// Reads that left the standby: it failed, or was known already to be of no use.
async fn given_up(server: &TestServer) -> u64 {
    reads(server, "failed").await + reads(server, "lagging").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_lags_more_than_it_may_is_not_read_until_it_has_caught_up() {
    let pair = Pair::start(SECOND).await;
    let spirit_id = pair.server.spirit().await;
    pair.pause().await;
    create(&mut pair.server.events(), event(&spirit_id)).await;
    eventually("the primary serves", async || {
        (pair.count(&spirit_id).await == 1).then_some(())
    })
    .await;
    let served = reads(&pair.server, "served").await;
    assert!(reads(&pair.server, "lagging").await > 0);
    assert!(lag(&pair.server).await > SECOND.as_secs_f64());
    for _ in 0..10 {
        assert_eq!(pair.count(&spirit_id).await, 1);
    }
    assert_eq!(reads(&pair.server, "served").await, served, "all by the primary");

    pair.resume().await;
    is_read(&pair.server).await;
    assert_eq!(pair.count(&spirit_id).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_notices_that_the_standby_goes_and_it_is_read_when_it_comes_back() {
    let mut pair = Pair::start(FOR_EVER).await;
    let spirit_id = pair.server.spirit().await;
    create(&mut pair.server.events(), event(&spirit_id)).await;
    eventually("the event reaches the standby", async || {
        (pair.count(&spirit_id).await == 1).then_some(())
    })
    .await;
    let readers = Readers::start(&pair, &spirit_id, 1);
    is_read(&pair.server).await;
    for is_killed in [false, true] {
        if is_killed {
            pair.standby.kill().await;
        } else {
            pair.standby.stop().await;
        }
        eventually("it is found to be away", async || {
            lag(&pair.server).await.is_infinite().then_some(())
        })
        .await;
        pair.standby.run().await;
        is_read(&pair.server).await;
    }
    readers.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_starts_without_its_standby_and_reads_it_once_it_is_there() {
    let mut pair = Pair::start(FOR_EVER).await;
    pair.standby.stop().await;
    let connect = pair.standby.database.connect.clone();
    pair.server = TestServer::start_on(pair.primary.database.clone(), |settings| {
        let lag_max = FOR_EVER;
        settings.store.standby = Some(StandbySettings { connect, lag_max });
    })
    .await;
    let spirit_id = pair.server.spirit().await;
    create(&mut pair.server.events(), event(&spirit_id)).await;
    assert_eq!(pair.count(&spirit_id).await, 1);
    pair.standby.run().await;
    is_read(&pair.server).await;
    assert_eq!(pair.count(&spirit_id).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_that_a_network_swallows_on_their_way_to_the_standby_are_soon_answered_by_the_primary() {
    let primary = Cluster::start(&[]).await;
    let standby = primary.standby(&[]).await;
    let proxy = Proxy::start(standby.socket()).await;
    let connect = standby.connect_by(proxy.addr);
    let server = TestServer::start_on(primary.database.clone(), |settings| {
        let lag_max = FOR_EVER;
        settings.store.standby = Some(StandbySettings { connect, lag_max });
    })
    .await;
    is_read(&server).await;
    let spirit_id = server.spirit().await;
    let stored = create(&mut server.events(), event(&spirit_id)).await;
    proxy.turn(Weather::Swallowing);
    let since = Instant::now();
    let (mut counting, mut getting) = (server.events(), server.events());
    let counted = counting.count_events(count(&spirit_id));
    let got = getting.get_event(get(&stored.id));
    let (counted, got) = tokio::join!(counted, got);
    assert_eq!(counted.unwrap().into_inner().count, 1);
    assert_eq!(got.unwrap().into_inner().event, Some(stored));
    let took = since.elapsed();
    assert!(
        took < Duration::from_secs(10),
        "{took:?}, and a statement may take 30 s"
    );
    proxy.turn(Weather::Fair);
    is_read(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_goes_on_at_the_primary_when_the_standby_dies_half_way() {
    const EVENTS: i64 = 5_000;
    let mut pair = Pair::start(FOR_EVER).await;
    let spirit_id = pair.server.spirit().await;
    fill(&pair.server, &spirit_id, EVENTS).await;
    eventually("the events reach the standby", async || {
        (pair.count(&spirit_id).await == EVENTS).then_some(())
    })
    .await;
    let left = given_up(&pair.server).await;
    let response = pair
        .server
        .events()
        .stream_session_events(stream(&spirit_id, "s"))
        .await;
    let mut replay = Reader(response.unwrap().into_inner());
    let mut sequences = replay.sequences(1).await;
    pair.standby.kill().await;
    // Later than the bound, and earlier in replay order than what is still to come.
    create(&mut pair.server.events(), event_at(&spirit_id, "s", EVENTS - 1)).await;
    while let Some((item, _)) = replay.next().await.unwrap() {
        let Item::Event(event) = item else {
            panic!("{item:?}")
        };
        sequences.push(event.sequence);
    }
    assert!(sequences.into_iter().eq(1..=EVENTS));
    assert!(given_up(&pair.server).await > left, "the standby died half-way");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_replication_cancels_is_answered_by_the_primary() {
    const EVENTS: i64 = 50_000;
    let pair = Pair::start_with(FOR_EVER, &[("max_standby_streaming_delay", "0")]).await;
    let spirit_id = pair.server.spirit().await;
    fill(&pair.server, &spirit_id, EVENTS).await;
    eventually("the events reach the standby", async || {
        (pair.count(&spirit_id).await == EVENTS).then_some(())
    })
    .await;
    let readers = Readers::start(&pair, &spirit_id, EVENTS);
    let mut primary = pair.primary.database.connect().await;
    let mut standby = pair.standby.database.connect().await;
    eventually("replication cancels a read", async || {
        // The standby has to take the lock, too, whatever is read there.
        let mut transaction = primary.begin().await.unwrap();
        sqlx::query("lock table events in access exclusive mode")
            .execute(&mut *transaction)
            .await
            .unwrap();
        transaction.commit().await.unwrap();
        let (cancelled,): (i64,) = sqlx::query_as(
            "select confl_lock from pg_stat_database_conflicts where datname = current_database()",
        )
        .fetch_one(&mut standby)
        .await
        .unwrap();
        (cancelled > 0 && reads(&pair.server, "failed").await > 0).then_some(())
    })
    .await;
    readers.end().await;
    is_read(&pair.server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_is_read_no_more() {
    let mut pair = Pair::start(FOR_EVER).await;
    let spirit_id = pair.server.spirit().await;
    pair.standby.promote().await;
    eventually("it is found to be no standby", async || {
        lag(&pair.server).await.is_infinite().then_some(())
    })
    .await;
    create(&mut pair.server.events(), event(&spirit_id)).await;
    assert_eq!(pair.count(&spirit_id).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_owns_its_database_and_nothing_else_is_enough() {
    let primary = Cluster::start(&[]).await;
    let standby = primary.standby(&[]).await;
    let mut connection = primary.database.connect().await;
    for sql in [
        "create role events login password 'secret'",
        "create database events owner events",
    ] {
        sqlx::query(sql).execute(&mut connection).await.unwrap();
    }
    let own = |connect: &PgConnectOptions| {
        let connect = connect.clone().username("events").password("secret");
        connect.database("events")
    };
    let database = Database::elsewhere(own(&primary.database.connect));
    let server = TestServer::start_on(Arc::new(database), |settings| {
        settings.store.standby = Some(StandbySettings {
            connect: own(&standby.database.connect),
            lag_max: FOR_EVER,
        });
    })
    .await;
    is_read(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failover_a_standby_of_the_old_primary_is_not_read_and_one_of_the_new_one_is() {
    let old = Cluster::start(&[]).await;
    let left_behind = old.standby(&[]).await;
    let mut new = old.standby(&[]).await;
    new.promote().await;
    for (standby, follows) in [(left_behind, false), (new.standby(&[]).await, true)] {
        let connect = standby.database.connect.clone();
        let server = TestServer::start_on(new.database.clone(), |settings| {
            let lag_max = SECOND;
            settings.store.standby = Some(StandbySettings { connect, lag_max });
        })
        .await;
        if follows {
            is_read(&server).await;
        } else {
            is_asked(&standby.database, 20).await;
            is_not_read(&server).await;
        }
    }
}

/// Waits until the service has asked a database so many times.
async fn is_asked(database: &Database, times: usize) {
    let mut connection = database.connect().await;
    let mut seen = HashSet::new();
    eventually("the service asks it", async || {
        let asked: Vec<(String,)> = sqlx::query_as(
            "select query_start::text from pg_stat_activity
             where application_name like 'elephantasm-events%' and state = 'idle'",
        )
        .fetch_all(&mut connection)
        .await
        .unwrap();
        seen.extend(asked);
        (seen.len() >= times).then_some(())
    })
    .await;
}

async fn is_not_read(server: &TestServer) {
    let spirit_id = server.spirit().await;
    create(&mut server.events(), event(&spirit_id)).await;
    for _ in 0..20 {
        let counted = server.events().count_events(count(&spirit_id)).await.unwrap();
        assert_eq!(counted.into_inner().count, 1);
    }
    assert!(lag(server).await.is_infinite());
    assert_eq!(reads(server, "served").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_databases_standby_and_a_primary_are_not_read() {
    let stranger = Cluster::start(&[]).await;
    let copy = stranger.standby(&[]).await;
    for other in [&copy, &stranger] {
        let connect = other.database.connect.clone();
        let server = TestServer::start_with(|settings| {
            let lag_max = SECOND;
            settings.store.standby = Some(StandbySettings { connect, lag_max });
        })
        .await;
        // The test of the connections is some of these, then come several looks.
        is_asked(&other.database, 20).await;
        is_not_read(&server).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_pooler_that_mixes_statements_up_a_standby_is_read_with_the_switch_alone() {
    if pgbouncer::program().is_none() {
        return;
    }
    let primary = Cluster::start(&[]).await;
    let standby = primary.standby(&[]).await;
    for has_switch in [false, true] {
        let pooler = PgBouncer::start(&standby.database.connect, Mode::Transaction, 2, IGNORE).await;
        let connect = pooler.connect_options("postgres");
        let direct = primary.database.connect.clone();
        let server = TestServer::start_on(primary.database.clone(), |settings| {
            let lag_max = FOR_EVER;
            settings.store.standby = Some(StandbySettings { connect, lag_max });
            settings.store.transaction_pooler = has_switch;
            settings.store.direct = Some(direct);
        })
        .await;
        if has_switch {
            is_read(&server).await;
        } else {
            is_asked(&standby.database, 1).await;
            is_not_read(&server).await;
        }
    }
}
