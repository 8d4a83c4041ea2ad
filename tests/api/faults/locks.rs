//! A spirit that someone else holds delays its own creates only.

use std::time::Duration;

use elephantasm_events::grpc::pb::{BatchCreateEventsRequest, BatchMode};
use tokio::time::timeout;

use crate::support::builders::{create, event, keyed, lock_spirit};
use crate::support::harness::{PATIENCE, TestServer, eventually, left_out_without_settings};

#[tokio::test(flavor = "multi_thread")]
async fn others_go_on_and_the_held_ones_follow_in_order() {
    let server = TestServer::start().await;
    let (held, free) = (server.spirit().await, server.spirit().await);
    let mut connection = server.database.connect().await;
    let transaction = lock_spirit(&mut connection, &held).await;

    let waiting: Vec<_> = ["a", "b", "c"]
        .into_iter()
        .map(|key| {
            let (mut events, request) = (server.events(), keyed(&held, key));
            tokio::spawn(async move { create(&mut events, request).await })
        })
        .collect();
    let mut atomic = server.events();
    let both = BatchCreateEventsRequest {
        requests: vec![event(&free), event(&held)],
        mode: BatchMode::Atomic.into(),
    };
    let waiting_batch = tokio::spawn(async move { atomic.batch_create_events(both).await });

    // While it is held, others are stored at once, many times over.
    for _ in 0..50 {
        let stored = timeout(PATIENCE, create(&mut server.events(), event(&free))).await;
        stored.expect("a create of a free spirit does not wait");
    }
    assert!(waiting.iter().all(|task| !task.is_finished()));
    assert!(!waiting_batch.is_finished());

    transaction.rollback().await.unwrap();
    let mut sequences = Vec::new();
    for task in waiting {
        sequences.push(timeout(PATIENCE, task).await.unwrap().unwrap().sequence);
    }
    timeout(PATIENCE, waiting_batch).await.unwrap().unwrap().unwrap();
    sequences.sort_unstable();
    sequences.dedup();
    assert_eq!(sequences.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_waits_longer_than_a_flush_may_is_out_of_time_and_leaves_nothing() {
    if left_out_without_settings("the database has to end the writer's wait, at the writer's own limit") {
        return;
    }
    let server = TestServer::start_with(|settings| {
        // Connecting counts, too, and takes its time on a busy machine.
        settings.store.ingest.flush_timeout = Duration::from_secs(2);
    })
    .await;
    let spirit_id = server.spirit().await;
    let mut connection = server.database.connect().await;
    let transaction = lock_spirit(&mut connection, &spirit_id).await;
    let status = server.events().create_event(event(&spirit_id)).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
    transaction.rollback().await.unwrap();
    // The spirit works again, and what was refused never appears.
    eventually("a create after the lock", || async {
        server.events().create_event(event(&spirit_id)).await.ok()
    })
    .await;
    let (count,): (i64,) = sqlx::query_as("select count(*) from events")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(count, 1);
}
