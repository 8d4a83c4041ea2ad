//! Purges whose caller or database goes away, and purges during a shutdown.

use std::sync::Arc;

use tonic::Code;

use super::{begun, of_all, purged, purges, stored};
use crate::support::builders::{insert_events, refused};
use crate::support::cluster::Cluster;
use crate::support::harness::{TestServer, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_without_its_caller_ends_after_a_step_and_another_call_removes_the_rest() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    insert_events(&server, &spirit_id, 20_000).await;
    drop(begun(&server, &spirit_id).await);
    let mut before = Vec::new();
    // Without a caller the number stops to fall, long before all events are gone.
    eventually("the purge ends", async || {
        before.push(stored(&server, &spirit_id).await.len());
        let last = before.iter().rev().take(50);
        (before.len() >= 50 && last.clone().min() == last.max()).then_some(())
    })
    .await;
    let left = i64::try_from(before.pop().unwrap()).unwrap();
    assert!(left > 0 && left < 20_000, "{left}");
    assert_eq!(purged(&server, of_all(&spirit_id)).await.unwrap().1, left);
    let listed = purges(&server, &spirit_id).await;
    let counts: Vec<i64> = listed.iter().map(|purge| purge.purged_count).collect();
    assert_eq!(counts, [left, 20_000 - left]);
    assert!(listed[0].finished_at.is_some());
    assert_eq!(listed[1].finished_at, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_ends_a_purge_after_its_step() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    insert_events(&server, &spirit_id, 20_000).await;
    let mut items = begun(&server, &spirit_id).await.1;
    server.shut_down();
    let ended = loop {
        match items.message().await {
            Ok(item) => assert!(!item.unwrap().done),
            Err(status) => break status,
        }
    };
    refused(Err::<(), _>(ended), Code::Unavailable, "SHUTTING_DOWN");
    let database = server.database.clone();
    server.stop().await.unwrap();
    let again = TestServer::start_on(database, |_| {}).await;
    let left = stored(&again, &spirit_id).await.len();
    assert!(left > 0 && left < 20_000, "{left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_that_kill_9_of_the_database_breaks_off_is_completed_by_another_call_and_nothing_else_is_lost()
 {
    const EVENTS: i64 = 10_000;
    let mut cluster = Cluster::start(&[]).await;
    let server = TestServer::start_on(Arc::clone(&cluster.database), |_| {}).await;
    let (spirit_id, other) = (server.spirit().await, server.spirit().await);
    insert_events(&server, &spirit_id, EVENTS).await;
    insert_events(&server, &other, 1_000).await;
    let (first, mut items) = begun(&server, &spirit_id).await;
    cluster.kill().await;
    let mut reported = first.purged_count;
    let ended = loop {
        match items.message().await {
            Ok(item) => reported = item.filter(|item| !item.done).unwrap().purged_count,
            Err(status) => break status,
        }
    };
    refused(Err::<(), _>(ended), Code::Unavailable, "DATABASE_UNAVAILABLE");

    cluster.run().await;
    eventually("the purge is completed", async || {
        purged(&server, of_all(&spirit_id)).await.ok()
    })
    .await;
    let listed = purges(&server, &spirit_id).await;
    let broken_off = listed.last().unwrap();
    assert!(broken_off.purged_count >= reported && broken_off.finished_at.is_none());
    assert!(listed[0].finished_at.is_some());
    let counts = listed.iter().map(|purge| purge.purged_count);
    assert_eq!(counts.sum::<i64>(), EVENTS, "each event is counted once");
    assert!(stored(&server, &spirit_id).await.is_empty());
    assert!(stored(&server, &other).await.into_iter().eq(1..=1_000));
    server.stop().await.unwrap();
}
