//! The paths through a flush: the fast path, taken dedupe keys, batches larger than a flush, locked spirits, and
//! data that the database rejects.

use std::sync::Arc;
use std::time::Duration;

use elephantasm_events::grpc::pb::batch_create_events_result::Result as BatchItem;
use elephantasm_events::grpc::pb::ingest_events_response::Result as Answer;
use elephantasm_events::grpc::pb::{
    BatchCreateEventsRequest, BatchCreateEventsResponse, BatchMode, CreateEventRequest, CreateEventResponse,
    CreateOutcome, GetSpiritRequest, IngestEventsRequest, OnDuplicate, SoftDeleteSpiritRequest,
};
use futures_util::future::join_all;
use sqlx::{AssertSqlSafe, Connection as _};
use tonic::{Code, Response, Status};

use crate::support::builders::{
    a_statement_is_blocked, create, event, keyed, lock_spirit, metadata, refused,
};
use crate::support::harness::{TestServer, skipped_without_session_settings};
use crate::support::validation::UNKNOWN_ID;

/// Sends creates while a create of `busy_with` occupies the writer, so that one flush takes them all.
async fn create_in_one_flush(
    server: &TestServer,
    busy_with: &str,
    requests: Vec<CreateEventRequest>,
) -> Vec<Result<CreateEventResponse, Status>> {
    let mut connection = server.database.connect().await;
    let mut locks = connection.begin().await.unwrap();
    sqlx::query("lock table events in share mode")
        .execute(&mut *locks)
        .await
        .unwrap();
    let (mut events, first) = (server.events(), event(busy_with));
    let busy = tokio::spawn(async move { create(&mut events, first).await });
    a_statement_is_blocked(server).await;
    let calls: Vec<_> = requests
        .into_iter()
        .map(|request| {
            let mut events = server.events();
            tokio::spawn(async move { events.create_event(request).await.map(Response::into_inner) })
        })
        .collect();
    // Sent after the creates on the same connection, so its reply means that the server has received them.
    let request = GetSpiritRequest {
        spirit_id: busy_with.to_owned(),
        ..GetSpiritRequest::default()
    };
    server.spirits().get_spirit(request).await.unwrap();
    locks.rollback().await.unwrap();
    busy.await.unwrap();
    join_all(calls).await.into_iter().map(Result::unwrap).collect()
}

/// Runs a statement on a connection of the test's own.
async fn execute(server: &TestServer, sql: &'static str) {
    let mut connection = server.database.connect().await;
    sqlx::query(AssertSqlSafe(sql))
        .execute(&mut connection)
        .await
        .unwrap();
}

const REJECT_POISON: &str = "alter table events add constraint ck_test check (content <> 'poison')";

fn poisoned_event(spirit_id: &str) -> CreateEventRequest {
    CreateEventRequest {
        content: Some("poison".to_owned()),
        ..event(spirit_id)
    }
}

async fn create_atomic_batch(
    server: &TestServer,
    requests: Vec<CreateEventRequest>,
) -> Result<BatchCreateEventsResponse, Status> {
    let request = BatchCreateEventsRequest {
        requests,
        mode: BatchMode::Atomic.into(),
    };
    server
        .events()
        .batch_create_events(request)
        .await
        .map(Response::into_inner)
}

/// The stored sequences of a spirit, in ascending order.
async fn stored_sequences(server: &TestServer, spirit_id: &str) -> Vec<i64> {
    let rows: Vec<(i64,)> =
        sqlx::query_as("select sequence from events where spirit_id = $1::uuid order by sequence")
            .bind(spirit_id)
            .fetch_all(&mut server.database.connect().await)
            .await
            .unwrap();
    rows.into_iter().map(|(sequence,)| sequence).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn creates_with_taken_and_free_dedupe_keys_in_one_flush_get_separate_answers() {
    let server = TestServer::start().await;
    let (spirit_id, busy) = (server.spirit().await, server.spirit().await);
    let holder = create(&mut server.events(), keyed(&spirit_id, "taken")).await;
    let mut last = 1;
    for round in 0..3 {
        let existing = CreateEventRequest {
            on_duplicate: OnDuplicate::ReturnExisting.into(),
            ..keyed(&spirit_id, "taken")
        };
        let requests = vec![
            event(&spirit_id),
            keyed(&spirit_id, "taken"),
            keyed(&spirit_id, &format!("free-{round}")),
            existing,
            event(&spirit_id),
            keyed(&busy, &format!("free-{round}")),
        ];
        let mut answers = create_in_one_flush(&server, &busy, requests).await;
        let status = refused(answers.remove(1), Code::AlreadyExists, "DUPLICATE_EVENT");
        assert_eq!(metadata(&status, "existing_event_id"), holder.id);
        let existing = answers.remove(2).unwrap();
        // `occurred_at` was set by the server's clock; a request without it is not compared on it.
        assert_eq!(existing.outcome(), CreateOutcome::Duplicate);
        assert_eq!(existing.event.unwrap().id, holder.id);
        for answer in answers {
            assert_eq!(answer.unwrap().outcome(), CreateOutcome::Created);
        }
        last += 3;
        assert_eq!(
            stored_sequences(&server, &spirit_id).await,
            (1..=last).collect::<Vec<_>>()
        );
        // Creates without a taken dedupe key, until flushes use the fast path again.
        for _ in 0..20 {
            create(&mut server.events(), event(&busy)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_atomic_batch_larger_than_a_flush_and_than_the_queue_is_stored_in_full() {
    let server = TestServer::start_with(|settings| {
        settings.store.ingest.flush_items_max = 4;
        settings.store.ingest.queue_items_max = 8;
    })
    .await;
    let (first_spirit, second_spirit) = (server.spirit().await, server.spirit().await);
    let requests: Vec<_> = (0..200)
        .map(|n| event(if n % 2 == 0 { &first_spirit } else { &second_spirit }))
        .collect();
    let results = create_atomic_batch(&server, requests).await.unwrap().results;
    assert_eq!(results.len(), 200);
    for spirit_id in [&first_spirit, &second_spirit] {
        assert_eq!(
            stored_sequences(&server, spirit_id).await,
            (1..=100).collect::<Vec<_>>()
        );
    }
}

#[tokio::test]
async fn an_atomic_batch_with_an_unknown_or_deleted_spirit_stores_nothing() {
    let server = TestServer::start().await;
    let (first_spirit, second_spirit, deleted) = (
        server.spirit().await,
        server.spirit().await,
        server.spirit().await,
    );
    let request = SoftDeleteSpiritRequest {
        spirit_id: deleted.clone(),
        ..SoftDeleteSpiritRequest::default()
    };
    server.spirits().soft_delete_spirit(request).await.unwrap();
    for (description, absent) in [("unknown", UNKNOWN_ID), ("deleted", deleted.as_str())] {
        let requests = vec![
            event(&first_spirit),
            event(&second_spirit),
            event(absent),
            event(&first_spirit),
        ];
        let status = refused(
            create_atomic_batch(&server, requests).await,
            Code::NotFound,
            "SPIRIT_NOT_FOUND",
        );
        assert_eq!(metadata(&status, "failed_indexes"), "2", "{description}");
        for spirit_id in [&first_spirit, &second_spirit, &deleted] {
            assert!(
                stored_sequences(&server, spirit_id).await.is_empty(),
                "{description}"
            );
        }
    }
    create(&mut server.events(), event(&first_spirit)).await;
    assert_eq!(
        stored_sequences(&server, &first_spirit).await,
        [1],
        "no sequence was skipped"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_atomic_batch_with_a_locked_spirit_waits_as_a_whole() {
    let server = TestServer::start().await;
    let (free, locked) = (server.spirit().await, server.spirit().await);
    let mut connection = server.database.connect().await;
    let transaction = lock_spirit(&mut connection, &locked).await;
    let requests = vec![event(&free), event(&locked), event(&free)];
    let waiting = create_atomic_batch(&server, requests);
    let unlock = async {
        a_statement_is_blocked(&server).await;
        assert!(
            stored_sequences(&server, &free).await.is_empty(),
            "nothing of the waiting batch is stored"
        );
        create(&mut server.events(), event(&free)).await;
        transaction.rollback().await.unwrap();
    };
    let (answer, ()) = tokio::join!(waiting, unlock);
    let sequences: Vec<i64> = answer
        .unwrap()
        .results
        .into_iter()
        .map(|result| match result.result.unwrap() {
            BatchItem::Created(created) => created.event.unwrap().sequence,
            BatchItem::Error(error) => panic!("refused: {error:?}"),
        })
        .collect();
    assert_eq!(sequences, [2, 1, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_atomic_batch_whose_flush_times_out_stores_nothing() {
    if skipped_without_session_settings(
        "the wait for the lock ends by a timeout setting of the flush connection",
    ) {
        return;
    }
    let server = TestServer::start_with(|settings| {
        settings.store.ingest.flush_timeout = Duration::from_secs(3);
    })
    .await;
    let (free, locked) = (server.spirit().await, server.spirit().await);
    let mut connection = server.database.connect().await;
    let transaction = lock_spirit(&mut connection, &locked).await;
    let status = create_atomic_batch(&server, vec![event(&free), event(&locked)])
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    transaction.rollback().await.unwrap();
    create_atomic_batch(&server, vec![event(&free), event(&locked)])
        .await
        .unwrap();
    for spirit_id in [&free, &locked] {
        assert_eq!(stored_sequences(&server, spirit_id).await, [1]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_the_database_rejects_does_not_fail_the_rest_of_its_flush() {
    let server = TestServer::start().await;
    let (spirit_id, busy) = (server.spirit().await, server.spirit().await);
    execute(&server, REJECT_POISON).await;
    let requests = vec![
        event(&spirit_id),
        poisoned_event(&spirit_id),
        keyed(&spirit_id, "k"),
        poisoned_event(&busy),
        event(&spirit_id),
    ];
    let answers = create_in_one_flush(&server, &busy, requests).await;
    for (n, answer) in answers.into_iter().enumerate() {
        if n % 2 == 1 {
            let status = refused(answer, Code::Internal, "INTERNAL");
            assert!(!status.message().contains("ck_test"), "{status:?}");
        } else {
            answer.unwrap();
        }
    }
    assert_eq!(stored_sequences(&server, &spirit_id).await, [1, 2, 3]);
    assert_eq!(stored_sequences(&server, &busy).await, [1]);
}

#[tokio::test]
async fn an_atomic_batch_with_an_item_that_the_database_rejects_stores_nothing() {
    let server = TestServer::start().await;
    let (first_spirit, second_spirit) = (server.spirit().await, server.spirit().await);
    execute(&server, REJECT_POISON).await;
    let requests = vec![
        event(&first_spirit),
        poisoned_event(&second_spirit),
        event(&first_spirit),
    ];
    refused(
        create_atomic_batch(&server, requests.clone()).await,
        Code::Internal,
        "INTERNAL",
    );
    for spirit_id in [&first_spirit, &second_spirit] {
        assert!(stored_sequences(&server, spirit_id).await.is_empty());
    }
    execute(&server, "alter table events drop constraint ck_test").await;
    create_atomic_batch(&server, requests).await.unwrap();
    assert_eq!(stored_sequences(&server, &first_spirit).await, [1, 2]);
    assert_eq!(stored_sequences(&server, &second_spirit).await, [1]);
}

/// Ingests creates through one stream and returns each item's sequence, or `None` where the database rejected it.
async fn ingest(server: &TestServer, requests: Vec<CreateEventRequest>) -> Vec<Option<i64>> {
    let requests = requests.into_iter().map(|create| IngestEventsRequest {
        create: Some(create),
        ..IngestEventsRequest::default()
    });
    let requests = tokio_stream::iter(requests.collect::<Vec<_>>());
    let answers = server.events().ingest_events(requests).await;
    let mut answers = answers.unwrap().into_inner();
    let mut sequences = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        sequences.push(match answer.result.unwrap() {
            Answer::Receipt(receipt) => Some(receipt.sequence),
            Answer::Error(error) => {
                assert_eq!(error.code, i32::from(Code::Internal), "{error:?}");
                None
            }
        });
    }
    sequences
}

#[tokio::test(flavor = "multi_thread")]
async fn ingest_streams_on_two_servers_keep_their_order_among_rejected_items() {
    const ITEMS: usize = 200;
    let server = TestServer::start().await;
    let second_server = TestServer::start_on(Arc::clone(&server.database), |_| {}).await;
    let spirit_id = server.spirit().await;
    execute(&server, REJECT_POISON).await;
    // The first server also gets rejected items, so that its flushes are split and retried repeatedly.
    let requests = |with_poison: bool| -> Vec<_> {
        (0..ITEMS)
            .map(|n| {
                if with_poison && n % 40 == 20 {
                    poisoned_event(&spirit_id)
                } else {
                    event(&spirit_id)
                }
            })
            .collect()
    };
    let streams = (0..8).map(|n| match n % 2 {
        0 => ingest(&server, requests(true)),
        _ => ingest(&second_server, requests(false)),
    });
    let acknowledged = join_all(streams).await;
    for (n, sequences) in acknowledged.iter().enumerate() {
        assert_eq!(sequences.len(), ITEMS);
        let rejections = sequences.iter().filter(|sequence| sequence.is_none()).count();
        assert_eq!(rejections, if n % 2 == 0 { ITEMS / 40 } else { 0 });
        assert!(
            sequences.iter().flatten().is_sorted(),
            "stream {n}: {sequences:?}"
        );
    }
    let mut all: Vec<i64> = acknowledged.into_iter().flatten().flatten().collect();
    all.sort_unstable();
    assert_eq!(
        stored_sequences(&server, &spirit_id).await,
        all,
        "every acknowledged sequence is stored once"
    );
    assert_eq!(all, (1..=i64::try_from(all.len()).unwrap()).collect::<Vec<_>>());
}
