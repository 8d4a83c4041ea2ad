//! PARTIAL batches whose spirits belong to different writers: each writer stores its share of the items.

use std::collections::HashSet;

use elephantasm_events::grpc::pb::batch_create_events_result::Result as Item;
use elephantasm_events::grpc::pb::{
    BatchCreateEventsRequest, BatchCreateEventsResponse, BatchMode, CreateEventRequest,
};
use futures_util::future::join_all;
use sqlx::Executor as _;
use tonic::{Code, Response, Status};
use tonic_types::RpcStatusExt as _;

use crate::support::builders::{event, lock_spirit, refused};
use crate::support::harness::{TestServer, eventually};

/// Number of spirits of a batch, so many that both writers have some of them.
const SPIRITS: usize = 20;

async fn spirits(server: &TestServer) -> Vec<String> {
    join_all((0..SPIRITS).map(|_| server.spirit())).await
}

async fn create_partial(
    server: &TestServer,
    requests: Vec<CreateEventRequest>,
) -> Result<BatchCreateEventsResponse, Status> {
    let request = BatchCreateEventsRequest {
        requests,
        mode: BatchMode::Partial.into(),
    };
    let response = server.events().batch_create_events(request).await;
    response.map(Response::into_inner)
}

/// The stored events: spirits and sequences.
async fn stored(server: &TestServer) -> HashSet<(String, i64)> {
    let rows: Vec<(String, i64)> = sqlx::query_as("select spirit_id::text, sequence from events")
        .fetch_all(&mut server.database.connect().await)
        .await
        .unwrap();
    rows.into_iter().collect()
}

/// Makes every commit fail that contains an event with content `poison`, as if the connection had been lost.
const FAIL_COMMITS: [&str; 2] = [
    "create function fail_commit() returns trigger language plpgsql as $$
     begin
         raise exception 'the commit fails' using errcode = '08006';
     end $$",
    "create constraint trigger fail_commit after insert on events deferrable initially deferred
     for each row when (new.content = 'poison') execute function fail_commit()",
];

#[tokio::test]
async fn items_of_a_partial_batch_whose_writer_could_not_commit_are_unavailable_and_the_others_stored() {
    let server = TestServer::start().await;
    let spirits = spirits(&server).await;
    let mut connection = server.database.connect().await;
    for statement in FAIL_COMMITS {
        connection.execute(statement).await.unwrap();
    }
    // Two rounds over the spirits, with one poisoned item.
    let mut requests: Vec<_> = spirits.iter().chain(&spirits).map(|id| event(id)).collect();
    requests[SPIRITS + 3].content = Some("poison".to_owned());
    let results = create_partial(&server, requests.clone()).await.unwrap().results;
    assert_eq!(results.len(), 2 * SPIRITS);
    let mut acknowledged = HashSet::new();
    let mut failed = HashSet::new();
    for (index, (request, result)) in requests.iter().zip(results).enumerate() {
        match result.result.unwrap() {
            Item::Created(created) => {
                let event = created.event.unwrap();
                assert_eq!(event.spirit_id.as_deref(), Some(request.spirit_id.as_str()));
                assert_eq!(event.sequence, 1 + i64::try_from(index / SPIRITS).unwrap());
                acknowledged.insert((request.spirit_id.clone(), event.sequence));
            }
            Item::Error(error) => {
                assert_eq!(error.code, i32::from(Code::Unavailable), "{error:?}");
                assert_eq!(
                    error.get_details_error_info().unwrap().reason,
                    "DATABASE_UNAVAILABLE"
                );
                failed.insert(request.spirit_id.clone());
            }
        }
    }
    assert!(failed.contains(&spirits[3]));
    assert!(!acknowledged.is_empty(), "the other writer's items are stored");
    assert_eq!(stored(&server).await, acknowledged);
    assert_eq!(acknowledged.len() + 2 * failed.len(), 2 * SPIRITS);
}

#[tokio::test]
async fn a_partial_batch_of_which_no_writer_could_commit_fails_as_a_whole() {
    let server = TestServer::start().await;
    let spirits = spirits(&server).await;
    let mut connection = server.database.connect().await;
    for statement in FAIL_COMMITS {
        connection.execute(statement).await.unwrap();
    }
    let poison = |spirit_id: &String| CreateEventRequest {
        content: Some("poison".to_owned()),
        ..event(spirit_id)
    };
    let result = create_partial(&server, spirits.iter().map(poison).collect()).await;
    refused(result, Code::Unavailable, "DATABASE_UNAVAILABLE");
    assert!(stored(&server).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partial_batch_with_a_locked_spirit_stores_the_other_writers_items_without_waiting() {
    let server = TestServer::start().await;
    let spirits = spirits(&server).await;
    let mut connection = server.database.connect().await;
    let transaction = lock_spirit(&mut connection, &spirits[0]).await;
    let batch = create_partial(&server, spirits.iter().map(|id| event(id)).collect());
    let unlock = async {
        eventually("items of the other writer are stored", async || {
            (!stored(&server).await.is_empty()).then_some(())
        })
        .await;
        assert!(!stored(&server).await.contains(&(spirits[0].clone(), 1)));
        transaction.rollback().await.unwrap();
    };
    let (response, ()) = tokio::join!(batch, unlock);
    for result in response.unwrap().results {
        assert!(matches!(result.result, Some(Item::Created(_))));
    }
    assert_eq!(stored(&server).await.len(), SPIRITS);
}

#[tokio::test]
async fn a_partial_batch_larger_than_the_queue_is_stored_by_both_writers() {
    let server = TestServer::start_with(|settings| {
        settings.store.ingest.flush_items_max = 4;
        settings.store.ingest.queue_items_max = 8;
    })
    .await;
    let spirits = spirits(&server).await;
    let requests: Vec<_> = (0..10 * SPIRITS).map(|n| event(&spirits[n % SPIRITS])).collect();
    let results = create_partial(&server, requests).await.unwrap().results;
    for (index, result) in results.into_iter().enumerate() {
        let Some(Item::Created(created)) = result.result else {
            panic!("item {index} was refused")
        };
        let sequence = 1 + i64::try_from(index / SPIRITS).unwrap();
        assert_eq!(created.event.unwrap().sequence, sequence, "item {index}");
    }
}
