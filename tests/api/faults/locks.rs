//! A locked spirit delays only its own creates.

use std::time::Duration;

use elephantasm_events::grpc::pb::{BatchCreateEventsRequest, BatchMode};
use tokio::time::timeout;

use crate::support::builders::{create, event, keyed, lock_spirit};
use crate::support::harness::{PATIENCE, TestServer, eventually, skipped_without_session_settings};

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_spirit_does_not_block_creates_of_other_spirits() {
    let server = TestServer::start().await;
    let (locked, free) = (server.spirit().await, server.spirit().await);
    let mut connection = server.database.connect().await;
    let transaction = lock_spirit(&mut connection, &locked).await;

    let waiting_creates: Vec<_> = ["a", "b", "c"]
        .into_iter()
        .map(|key| {
            let (mut events, request) = (server.events(), keyed(&locked, key));
            tokio::spawn(async move { create(&mut events, request).await })
        })
        .collect();
    let mut batch_client = server.events();
    let batch = BatchCreateEventsRequest {
        requests: vec![event(&free), event(&locked)],
        mode: BatchMode::Atomic.into(),
    };
    let waiting_batch = tokio::spawn(async move { batch_client.batch_create_events(batch).await });

    // During the lock, creates of another spirit are stored at once.
    for _ in 0..50 {
        let stored = timeout(PATIENCE, create(&mut server.events(), event(&free))).await;
        stored.expect("a create of an unlocked spirit does not wait");
    }
    assert!(waiting_creates.iter().all(|task| !task.is_finished()));
    assert!(!waiting_batch.is_finished());

    transaction.rollback().await.unwrap();
    let mut sequences = Vec::new();
    for task in waiting_creates {
        sequences.push(timeout(PATIENCE, task).await.unwrap().unwrap().sequence);
    }
    timeout(PATIENCE, waiting_batch).await.unwrap().unwrap().unwrap();
    sequences.sort_unstable();
    sequences.dedup();
    assert_eq!(sequences.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_waits_beyond_the_flush_timeout_fails_and_is_not_stored() {
    if skipped_without_session_settings(
        "the wait for the lock ends by a timeout setting of the flush connection",
    ) {
        return;
    }
    let server = TestServer::start_with(|settings| {
        // The timeout includes connecting, which is slow on a busy machine.
        settings.store.ingest.flush_timeout = Duration::from_secs(2);
    })
    .await;
    let spirit_id = server.spirit().await;
    let mut connection = server.database.connect().await;
    let transaction = lock_spirit(&mut connection, &spirit_id).await;
    let status = server.events().create_event(event(&spirit_id)).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
    transaction.rollback().await.unwrap();
    // The spirit accepts events again, and the failed create is never stored.
    eventually("a create succeeds after the lock", || async {
        server.events().create_event(event(&spirit_id)).await.ok()
    })
    .await;
    let (count,): (i64,) = sqlx::query_as("select count(*) from events")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(count, 1);
}
