//! Open live streams hold no database connection and little memory, share their reads, and cost nothing after
//! they end.

use std::time::Duration;

use elephantasm_events::grpc::pb::GetEventRequest;
use futures_util::future::join_all;
use sqlx::PgConnection;

use crate::streams::stalled_streams::{all_idle, fetched, resident_kib};
use crate::support::builders::{create, event};
use crate::support::harness::{TestServer, connect, eventually};
use crate::support::live::{Watcher, follow, following, now, watch, watch_through};

const STREAMS: usize = 1_000;
const STREAMS_PER_CONNECTION: usize = 100;

/// Opens [`STREAMS`] watches, spread evenly over the spirits; returns once they have caught up.
async fn idle_watches(server: &TestServer, spirits: &[String]) -> Vec<Watcher> {
    let mut watchers = Vec::new();
    for _ in 0..STREAMS / STREAMS_PER_CONNECTION {
        let channel = connect(server.addr).await;
        let starts = (0..STREAMS_PER_CONNECTION).map(|n| {
            let (channel, request) = (channel.clone(), now(&spirits[n % spirits.len()]));
            async move {
                let mut watcher = watch_through(channel, request).await;
                watcher.caught_up().await;
                watcher
            }
        });
        watchers.extend(join_all(starts).await);
    }
    watchers
}

async fn start_with_pool_of_four() -> TestServer {
    TestServer::start_with(|settings| settings.store.pool_size = 4).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_idle_watches_hold_no_database_connection_and_little_memory() {
    /// Less than a page of 256 KiB for each stream would take.
    const GROWTH_MAX_KIB: u64 = 200 * 1024;
    let server = start_with_pool_of_four().await;
    let mut spirits = Vec::new();
    for _ in 0..50 {
        spirits.push(server.spirit().await);
    }
    let before = resident_kib();
    let mut watchers = idle_watches(&server, &spirits).await;
    all_idle(&server).await;
    if let (Some(before), Some(now)) = (before, resident_kib()) {
        let growth = now.saturating_sub(before);
        assert!(growth < GROWTH_MAX_KIB, "memory grew by {growth} KiB");
    }
    let mut events = server.events();
    for _ in 0..20 {
        let created = create(&mut events, event(&spirits[0])).await;
        let request = GetEventRequest {
            event_id: created.id,
            ..GetEventRequest::default()
        };
        events.get_event(request).await.unwrap();
    }
    let all: Vec<i64> = (1..=20).collect();
    assert_eq!(watchers[0].sequences(20).await, all);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_watches_of_one_spirit_share_the_reads_after_a_commit() {
    const COMMITS: usize = 20;
    let server = start_with_pool_of_four().await;
    let spirit_id = server.spirit().await;
    let mut watchers = idle_watches(&server, std::slice::from_ref(&spirit_id)).await;
    for _ in 0..COMMITS {
        let created = create(&mut server.events(), event(&spirit_id)).await;
        let received = join_all(watchers.iter_mut().map(|watcher| watcher.sequences(1))).await;
        assert!(received.iter().all(|sequences| sequences == &[created.sequence]));
    }
    drop(watchers);
    // Each page reads the spirit once; starting a watch reads the spirit and the first page.
    let reads = usize::try_from(fetched(server, "relname = 'spirits'").await).unwrap();
    let unshared = COMMITS * STREAMS;
    assert!(
        reads < 2 * STREAMS + unshared / 10,
        "{reads} reads; {unshared} if no read were shared"
    );
}

/// Returns true if the server has polled for new events within the last 500 ms.
async fn is_polling(connection: &mut PgConnection) -> bool {
    let (polls,): (i64,) = sqlx::query_as(
        "select count(*) from pg_stat_activity
         where datname = current_database() and pid <> pg_backend_pid()
         and query like '%last_sequence, deleted_at is not null%'
         and query_start > clock_timestamp() - interval '500 ms'",
    )
    .fetch_one(connection)
    .await
    .unwrap();
    polls > 0
}

#[tokio::test(flavor = "multi_thread")]
async fn polling_for_a_spirit_stops_when_its_streams_are_dropped() {
    let server = TestServer::start_with(|settings| {
        settings.store.live.listen.notify = false;
        settings.store.live.listen.poll_interval = Duration::from_millis(10);
    })
    .await;
    let mut connection = server.database.connect().await;
    for _ in 0..2 {
        let mut streams = Vec::new();
        for _ in 0..20 {
            let spirit_id = server.spirit().await;
            let mut watcher = watch(&server, now(&spirit_id)).await.unwrap();
            watcher.caught_up().await;
            let mut follower = follow(&server, following(&spirit_id, "s")).await.unwrap();
            follower.caught_up().await;
            let mut limited = following(&spirit_id, "s");
            limited.limit = 1;
            let limited = follow(&server, limited).await.unwrap();
            streams.push((watcher, follower, limited));
        }
        eventually("the server polls", async || {
            is_polling(&mut connection).await.then_some(())
        })
        .await;
        drop(streams);
        eventually("the server stops polling", async || {
            (!is_polling(&mut connection).await).then_some(())
        })
        .await;
    }
}
