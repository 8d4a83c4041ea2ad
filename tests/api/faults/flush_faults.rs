//! Faults within a flush: data that the database rejects, dead connections, a spirit that is locked repeatedly.

use elephantasm_events::grpc::pb::batch_create_events_result::Result as Item;
use elephantasm_events::grpc::pb::{
    BatchCreateEventsRequest, BatchCreateEventsResult, BatchMode, CreateEventRequest,
};
use sqlx::Executor as _;
use tonic::Code;
use tonic_types::RpcStatusExt as _;

use crate::support::builders::{blocked_backends, create, event, keyed, list, lock_spirit};
use crate::support::harness::{TestServer, eventually, skipped_behind_pooler};

/// The sequence of the created event, or `None` for an error, which must be INTERNAL.
fn sequence(result: BatchCreateEventsResult) -> Option<i64> {
    match result.result.unwrap() {
        Item::Created(created) => Some(created.event.unwrap().sequence),
        Item::Error(error) => {
            assert_eq!(error.code, i32::from(Code::Internal), "{error:?}");
            assert_eq!(error.get_details_error_info().unwrap().reason, "INTERNAL");
            None
        }
    }
}

#[tokio::test]
async fn an_item_of_a_partial_batch_that_the_database_rejects_fails_alone() {
    let server = TestServer::start().await;
    let (first_spirit, second_spirit) = (server.spirit().await, server.spirit().await);
    let mut connection = server.database.connect().await;
    connection
        .execute("alter table events add constraint ck_test check (content <> 'poison')")
        .await
        .unwrap();
    let poison = |spirit_id: &str| CreateEventRequest {
        content: Some("poison".to_owned()),
        ..event(spirit_id)
    };
    let batch = BatchCreateEventsRequest {
        requests: vec![
            event(&first_spirit),
            poison(&first_spirit),
            keyed(&second_spirit, "k"),
            poison(&second_spirit),
            event(&first_spirit),
        ],
        mode: BatchMode::Partial.into(),
    };
    let response = server.events().batch_create_events(batch).await.unwrap();
    let sequences: Vec<_> = response.into_inner().results.into_iter().map(sequence).collect();
    assert_eq!(sequences, [Some(1), None, Some(1), None, Some(2)]);
    let stored = server
        .events()
        .list_events(list(&first_spirit))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(stored.events.len(), 2);
}

/// Terminates connections whose last statement was the fast path of a flush, or the end of a full one, and that have been
/// idle for a while, and returns their number. `pg_stat_activity` contains the start of the last statement; the fast
/// path starts with the comment matched here.
const TERMINATE_IDLE_WRITERS: &str = "
    select count(*) filter (where pg_terminate_backend(pid, 5000))
    from pg_stat_activity
    where datname = current_database()
    and (query like '-- The fast path of a flush%' or query like '%update spirits%commit;')
    and state = 'idle'
    and state_change < now() - interval '1100 ms'";

#[tokio::test]
async fn a_create_does_not_fail_on_a_flush_connection_that_died_while_idle() {
    if skipped_behind_pooler("the pooler owns the backends and handles their death itself") {
        return;
    }
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut connection = server.database.connect().await;
    create(&mut server.events(), event(&spirit_id)).await;
    eventually("the flush connection is terminated", async || {
        let (ended,): (i64,) = sqlx::query_as(TERMINATE_IDLE_WRITERS)
            .fetch_one(&mut connection)
            .await
            .unwrap();
        (ended > 0).then_some(())
    })
    .await;
    let next = create(&mut server.events(), event(&spirit_id)).await;
    assert_eq!(next.sequence, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn creates_for_a_repeatedly_locked_spirit_wait_on_the_same_connection() {
    if skipped_behind_pooler("the pooler chooses the backend of each transaction") {
        return;
    }
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut holder = server.database.connect().await;
    let mut observer = server.database.connect().await;
    let mut backends = Vec::new();
    for _ in 0..5 {
        let transaction = lock_spirit(&mut holder, &spirit_id).await;
        let (mut events, request) = (server.events(), event(&spirit_id));
        let waiting = tokio::spawn(async move { create(&mut events, request).await });
        let backend = eventually("the create waits for the lock", async || {
            blocked_backends(&mut observer).await.first().copied()
        });
        backends.push(backend.await);
        transaction.rollback().await.unwrap();
        waiting.await.unwrap();
        // The next round must find the spirit unlocked, not queued behind this round's create.
        create(&mut server.events(), event(&spirit_id)).await;
    }
    backends.dedup();
    assert_eq!(
        backends.len(),
        1,
        "every round waits on the same backend: {backends:?}"
    );
}
