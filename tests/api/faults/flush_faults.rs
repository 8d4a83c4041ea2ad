//! Faults below a flush: data that the database refuses, connections that died, spirits held again and
//! again.

use elephantasm_events::grpc::pb::batch_create_events_result::Result as Item;
use elephantasm_events::grpc::pb::{
    BatchCreateEventsRequest, BatchCreateEventsResult, BatchMode, CreateEventRequest,
};
use sqlx::Executor as _;
use tonic::Code;
use tonic_types::RpcStatusExt as _;

use crate::support::builders::{create, event, keyed, list, lock_spirit};
use crate::support::harness::{TestServer, eventually, left_out_behind_pooler};

/// The sequence of what was created; `None` for an error, which must be INTERNAL.
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
async fn data_that_the_database_refuses_fails_its_own_item_of_a_partial_batch_only() {
    let server = TestServer::start().await;
    let (one, other) = (server.spirit().await, server.spirit().await);
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
            event(&one),
            poison(&one),
            keyed(&other, "k"),
            poison(&other),
            event(&one),
        ],
        mode: BatchMode::Partial.into(),
    };
    let response = server.events().batch_create_events(batch).await.unwrap();
    let sequences: Vec<_> = response.into_inner().results.into_iter().map(sequence).collect();
    assert_eq!(sequences, [Some(1), None, Some(1), None, Some(2)]);
    let stored = server
        .events()
        .list_events(list(&one))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(stored.events.len(), 2);
}

/// Ends connections that wrote events and have been idle since; returns how many there were. The database
/// keeps the beginning of a statement, and these begin with a comment that says so.
const END_IDLE_WRITERS: &str = "
    select count(*) filter (where pg_terminate_backend(pid, 5000))
    from pg_stat_activity
    where datname = current_database()
    and query like '-- A flush%'
    and state = 'idle'
    and state_change < now() - interval '1100 ms'";

#[tokio::test]
async fn a_create_after_a_pause_does_not_fail_on_a_connection_that_died_meanwhile() {
    if left_out_behind_pooler("it has the backends, and says which of its own have died") {
        return;
    }
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut connection = server.database.connect().await;
    create(&mut server.events(), event(&spirit_id)).await;
    eventually("the writer's connection is ended", async || {
        let (ended,): (i64,) = sqlx::query_as(END_IDLE_WRITERS)
            .fetch_one(&mut connection)
            .await
            .unwrap();
        (ended > 0).then_some(())
    })
    .await;
    let next = create(&mut server.events(), event(&spirit_id)).await;
    assert_eq!(next.sequence, 2);
}

const WAITING: &str = "
    select pid
    from pg_stat_activity
    where datname = current_database()
    and wait_event_type = 'Lock'";

#[tokio::test(flavor = "multi_thread")]
async fn a_spirit_that_is_held_again_is_waited_for_on_the_same_connection() {
    if left_out_behind_pooler("it chooses the backend of each transaction") {
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
        let backend = eventually("it waits", async || {
            let row: Option<(i32,)> = sqlx::query_as(WAITING)
                .fetch_optional(&mut observer)
                .await
                .unwrap();
            row
        });
        backends.push(backend.await);
        transaction.rollback().await.unwrap();
        waiting.await.unwrap();
        // The next round is to find the spirit free again, not behind this one.
        create(&mut server.events(), event(&spirit_id)).await;
    }
    backends.dedup();
    assert_eq!(backends.len(), 1, "no backend is made each time: {backends:?}");
}
