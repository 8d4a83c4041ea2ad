//! Reads succeed while the standby lags, is down, cancels reads for replication or belongs to another
//! primary.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use elephantasm_events::store::StandbySettings;
use sqlx::Connection as _;
use sqlx::postgres::PgConnectOptions;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::standby::reads::{NO_LAG_LIMIT, Pair, count, lag, reads, wait_until_standby_is_read};
use crate::support::builders::{create, event, event_at, get, insert_events, stream};
use crate::support::cluster::Cluster;
use crate::support::harness::{Database, PATIENCE, TestServer, eventually};
use crate::support::live::{Item, Reader};
use crate::support::pgbouncer::{self, IGNORE_OPTIONS, Mode, PgBouncer};
use crate::support::proxy::{NetworkState, Proxy};

const SECOND: Duration = Duration::from_secs(1);

/// Tasks that count a spirit's events continuously and assert the same result each time.
struct Readers {
    done: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Readers {
    fn start(pair: &Pair, spirit_id: &str, expected: i64) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for _ in 0..4 {
            let (mut events, request, done) = (pair.server.events(), count(spirit_id), Arc::clone(&done));
            tasks.spawn(async move {
                while !done.load(Ordering::Acquire) {
                    let counted = events.count_events(request.clone()).await.unwrap();
                    assert_eq!(counted.into_inner().count, expected);
                }
            });
        }
        Self { done, tasks }
    }

    async fn stop(self) {
        self.done.store(true, Ordering::Release);
        timeout(PATIENCE, self.tasks.join_all())
            .await
            .expect("the readers stop");
    }
}

/// Reads that the primary answered because the standby failed or was not in use.
async fn reads_off_standby(server: &TestServer) -> u64 {
    reads(server, "failed").await + reads(server, "lagging").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_over_the_lag_limit_is_not_read_until_it_has_caught_up() {
    let pair = Pair::start(SECOND).await;
    let spirit_id = pair.server.spirit().await;
    pair.pause_replay().await;
    create(&mut pair.server.events(), event(&spirit_id)).await;
    eventually("the primary serves the reads", async || {
        (pair.count(&spirit_id).await == 1).then_some(())
    })
    .await;
    let served = reads(&pair.server, "served").await;
    assert!(reads(&pair.server, "lagging").await > 0);
    assert!(lag(&pair.server).await > SECOND.as_secs_f64());
    for _ in 0..10 {
        assert_eq!(pair.count(&spirit_id).await, 1);
    }
    assert_eq!(
        reads(&pair.server, "served").await,
        served,
        "a lagging standby was read"
    );

    pair.resume_replay().await;
    wait_until_standby_is_read(&pair.server).await;
    assert_eq!(pair.count(&spirit_id).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_succeed_while_the_standby_is_down_and_return_to_it_after_its_restart() {
    let mut pair = Pair::start(NO_LAG_LIMIT).await;
    let spirit_id = pair.server.spirit().await;
    create(&mut pair.server.events(), event(&spirit_id)).await;
    eventually("the event reaches the standby", async || {
        (pair.count(&spirit_id).await == 1).then_some(())
    })
    .await;
    let readers = Readers::start(&pair, &spirit_id, 1);
    wait_until_standby_is_read(&pair.server).await;
    for is_killed in [false, true] {
        if is_killed {
            pair.standby.kill().await;
        } else {
            pair.standby.stop().await;
        }
        eventually("the standby is detected as down", async || {
            lag(&pair.server).await.is_infinite().then_some(())
        })
        .await;
        pair.standby.run().await;
        wait_until_standby_is_read(&pair.server).await;
    }
    readers.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_starts_while_its_standby_is_down_and_reads_it_once_it_is_up() {
    let mut pair = Pair::start(NO_LAG_LIMIT).await;
    pair.standby.stop().await;
    let connect = pair.standby.database.connect.clone();
    pair.server = TestServer::start_on(pair.primary.database.clone(), |settings| {
        let lag_max = NO_LAG_LIMIT;
        settings.store.standby = Some(StandbySettings { connect, lag_max });
    })
    .await;
    let spirit_id = pair.server.spirit().await;
    create(&mut pair.server.events(), event(&spirit_id)).await;
    assert_eq!(pair.count(&spirit_id).await, 1);
    pair.standby.run().await;
    wait_until_standby_is_read(&pair.server).await;
    assert_eq!(pair.count(&spirit_id).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_lost_on_the_network_to_the_standby_are_answered_by_the_primary_within_ten_seconds() {
    let primary = Cluster::start(&[]).await;
    let standby = primary.standby(&[]).await;
    let proxy = Proxy::start(standby.socket()).await;
    let connect = standby.connect_through(proxy.addr);
    let server = TestServer::start_on(primary.database.clone(), |settings| {
        let lag_max = NO_LAG_LIMIT;
        settings.store.standby = Some(StandbySettings { connect, lag_max });
    })
    .await;
    wait_until_standby_is_read(&server).await;
    let spirit_id = server.spirit().await;
    let stored = create(&mut server.events(), event(&spirit_id)).await;
    proxy.set(NetworkState::Stalled);
    let start = Instant::now();
    let (mut count_client, mut get_client) = (server.events(), server.events());
    let counted = count_client.count_events(count(&spirit_id));
    let got = get_client.get_event(get(&stored.id));
    let (counted, got) = tokio::join!(counted, got);
    assert_eq!(counted.unwrap().into_inner().count, 1);
    assert_eq!(got.unwrap().into_inner().event, Some(stored));
    let elapsed = start.elapsed();
    assert!(
        elapsed < Duration::from_secs(10),
        "took {elapsed:?}; the statement timeout is 30 s"
    );
    proxy.set(NetworkState::Up);
    wait_until_standby_is_read(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_continues_on_the_primary_when_the_standby_dies_half_way() {
    const EVENTS: i64 = 5_000;
    let mut pair = Pair::start(NO_LAG_LIMIT).await;
    let spirit_id = pair.server.spirit().await;
    insert_events(&pair.server, &spirit_id, EVENTS).await;
    eventually("the events reach the standby", async || {
        (pair.count(&spirit_id).await == EVENTS).then_some(())
    })
    .await;
    let reads_before = reads_off_standby(&pair.server).await;
    let response = pair
        .server
        .events()
        .stream_session_events(stream(&spirit_id, "s"))
        .await;
    let mut replay = Reader(response.unwrap().into_inner());
    let mut sequences = replay.sequences(1).await;
    pair.standby.kill().await;
    // Above the replay's bound, although its time lies in the part that is still to be replayed.
    create(&mut pair.server.events(), event_at(&spirit_id, "s", EVENTS - 1)).await;
    while let Some((item, _)) = replay.next().await.unwrap() {
        let Item::Event(event) = item else {
            panic!("expected an event, got {item:?}")
        };
        sequences.push(event.sequence);
    }
    assert!(sequences.into_iter().eq(1..=EVENTS));
    assert!(
        reads_off_standby(&pair.server).await > reads_before,
        "the replay did not leave the standby"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_read_cancelled_by_replication_is_answered_by_the_primary() {
    const EVENTS: i64 = 50_000;
    let pair = Pair::start_with(NO_LAG_LIMIT, &[("max_standby_streaming_delay", "0")]).await;
    let spirit_id = pair.server.spirit().await;
    insert_events(&pair.server, &spirit_id, EVENTS).await;
    eventually("the events reach the standby", async || {
        (pair.count(&spirit_id).await == EVENTS).then_some(())
    })
    .await;
    let readers = Readers::start(&pair, &spirit_id, EVENTS);
    let mut primary = pair.primary.database.connect().await;
    let mut standby = pair.standby.database.connect().await;
    eventually("replication cancels a read", async || {
        // The standby replays the lock, which conflicts with every read of the table.
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
    readers.stop().await;
    wait_until_standby_is_read(&pair.server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_is_no_longer_read() {
    let mut pair = Pair::start(NO_LAG_LIMIT).await;
    let spirit_id = pair.server.spirit().await;
    pair.standby.promote().await;
    eventually("the promotion is detected", async || {
        lag(&pair.server).await.is_infinite().then_some(())
    })
    .await;
    create(&mut pair.server.events(), event(&spirit_id)).await;
    assert_eq!(pair.count(&spirit_id).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_read_with_a_role_that_only_owns_the_database() {
    let primary = Cluster::start(&[]).await;
    let standby = primary.standby(&[]).await;
    let mut connection = primary.database.connect().await;
    for sql in [
        "create role events login password 'secret'",
        "create database events owner events",
    ] {
        sqlx::query(sql).execute(&mut connection).await.unwrap();
    }
    let as_owner = |connect: &PgConnectOptions| {
        let connect = connect.clone().username("events").password("secret");
        connect.database("events")
    };
    let database = Database::external(as_owner(&primary.database.connect));
    let server = TestServer::start_on(Arc::new(database), |settings| {
        settings.store.standby = Some(StandbySettings {
            connect: as_owner(&standby.database.connect),
            lag_max: NO_LAG_LIMIT,
        });
    })
    .await;
    wait_until_standby_is_read(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failover_only_a_standby_of_the_new_primary_is_read() {
    let old = Cluster::start(&[]).await;
    let old_standby = old.standby(&[]).await;
    let mut new = old.standby(&[]).await;
    new.promote().await;
    for (standby, follows) in [(old_standby, false), (new.standby(&[]).await, true)] {
        let connect = standby.database.connect.clone();
        let server = TestServer::start_on(new.database.clone(), |settings| {
            let lag_max = SECOND;
            settings.store.standby = Some(StandbySettings { connect, lag_max });
        })
        .await;
        if follows {
            wait_until_standby_is_read(&server).await;
        } else {
            wait_for_probes(&standby.database, 20).await;
            assert_standby_is_not_read(&server).await;
        }
    }
}

/// Waits until the service has sent at least this many queries to a database.
async fn wait_for_probes(database: &Database, count: usize) {
    let mut connection = database.connect().await;
    let mut start_times = HashSet::new();
    eventually("the service probes the database", async || {
        let last_queries: Vec<(String,)> = sqlx::query_as(
            "select query_start::text from pg_stat_activity
             where application_name like 'elephantasm-events%' and state = 'idle' and query_start is not null",
        )
        .fetch_all(&mut connection)
        .await
        .unwrap();
        start_times.extend(last_queries);
        (start_times.len() >= count).then_some(())
    })
    .await;
}

/// Asserts that the primary answers the reads and that the standby's lag is unknown.
async fn assert_standby_is_not_read(server: &TestServer) {
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
async fn a_primary_or_a_standby_of_another_primary_is_not_read_as_the_standby() {
    let other_primary = Cluster::start(&[]).await;
    let other_standby = other_primary.standby(&[]).await;
    for other in [&other_standby, &other_primary] {
        let connect = other.database.connect.clone();
        let server = TestServer::start_with(|settings| {
            let lag_max = SECOND;
            settings.store.standby = Some(StandbySettings { connect, lag_max });
        })
        .await;
        // The pooler check accounts for some of these queries, and several probes for the rest.
        wait_for_probes(&other.database, 20).await;
        assert_standby_is_not_read(&server).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_behind_a_pooler_that_mixes_up_statements_is_read_only_with_the_pooler_option() {
    if pgbouncer::program().is_none() {
        return;
    }
    let primary = Cluster::start(&[]).await;
    let standby = primary.standby(&[]).await;
    for has_option in [false, true] {
        let pooler = PgBouncer::start(&standby.database.connect, Mode::Transaction, 2, IGNORE_OPTIONS).await;
        let connect = pooler.connect_options("postgres");
        let direct = primary.database.connect.clone();
        let server = TestServer::start_on(primary.database.clone(), |settings| {
            let lag_max = NO_LAG_LIMIT;
            settings.store.standby = Some(StandbySettings { connect, lag_max });
            settings.store.transaction_pooler = has_option;
            settings.store.direct = Some(direct);
        })
        .await;
        if has_option {
            wait_until_standby_is_read(&server).await;
        } else {
            wait_for_probes(&standby.database, 1).await;
            assert_standby_is_not_read(&server).await;
        }
    }
}
