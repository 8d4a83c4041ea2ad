//! The ways through a flush: plain, with taken keys, larger than one, held, and with data that the
//! database refuses.

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

use crate::support::builders::{create, event, keyed, lock_spirit, metadata, refused};
use crate::support::harness::{TestServer, eventually, left_out_without_settings};
use crate::support::validation::UNKNOWN_ID;

/// Sends creates while the writer is busy with one of this spirit, so that a flush takes them together.
async fn together(
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
    writer_waits(server).await;
    let calls: Vec<_> = requests
        .into_iter()
        .map(|request| {
            let mut events = server.events();
            tokio::spawn(async move { events.create_event(request).await.map(Response::into_inner) })
        })
        .collect();
    // Comes behind them on the same connection.
    let request = GetSpiritRequest {
        spirit_id: busy_with.to_owned(),
        ..GetSpiritRequest::default()
    };
    server.spirits().get_spirit(request).await.unwrap();
    locks.rollback().await.unwrap();
    busy.await.unwrap();
    join_all(calls).await.into_iter().map(Result::unwrap).collect()
}

async fn writer_waits(server: &TestServer) {
    let mut beside = server.database.connect().await;
    eventually("a flush waits for a lock", async || {
        let (waiting,): (bool,) = sqlx::query_as(
            "select count(*) > 0 from pg_stat_activity
             where datname = current_database() and wait_event_type = 'Lock'",
        )
        .fetch_one(&mut beside)
        .await
        .unwrap();
        waiting.then_some(())
    })
    .await;
}

/// Runs a statement beside the service.
async fn execute(server: &TestServer, sql: &'static str) {
    let mut connection = server.database.connect().await;
    sqlx::query(AssertSqlSafe(sql))
        .execute(&mut connection)
        .await
        .unwrap();
}

const REFUSE_POISON: &str = "alter table events add constraint ck_test check (content <> 'poison')";

fn poison(spirit_id: &str) -> CreateEventRequest {
    CreateEventRequest {
        content: Some("poison".to_owned()),
        ..event(spirit_id)
    }
}

async fn atomic(
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

/// The sequences of a spirit that are stored.
async fn stored(server: &TestServer, spirit_id: &str) -> Vec<i64> {
    let rows: Vec<(i64,)> =
        sqlx::query_as("select sequence from events where spirit_id = $1::uuid order by sequence")
            .bind(spirit_id)
            .fetch_all(&mut server.database.connect().await)
            .await
            .unwrap();
    rows.into_iter().map(|(sequence,)| sequence).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_a_flush_with_taken_keys_among_plain_creates_gets_its_own_answer() {
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
        let mut answers = together(&server, &busy, requests).await;
        let status = refused(answers.remove(1), Code::AlreadyExists, "DUPLICATE_EVENT");
        assert_eq!(metadata(&status, "existing_event_id"), holder.id);
        let existing = answers.remove(2).unwrap();
        // The clock gave the holder's time, and absent it is not compared.
        assert_eq!(existing.outcome(), CreateOutcome::Duplicate);
        assert_eq!(existing.event.unwrap().id, holder.id);
        for answer in answers {
            assert_eq!(answer.unwrap().outcome(), CreateOutcome::Created);
        }
        last += 3;
        assert_eq!(stored(&server, &spirit_id).await, (1..=last).collect::<Vec<_>>());
        // Until flushes no longer look for taken keys first.
        for _ in 0..20 {
            create(&mut server.events(), event(&busy)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_larger_than_a_flush_and_than_the_queue_is_stored_whole() {
    let server = TestServer::start_with(|settings| {
        settings.store.ingest.flush_items_max = 4;
        settings.store.ingest.queue_items_max = 8;
    })
    .await;
    let (one, other) = (server.spirit().await, server.spirit().await);
    let requests: Vec<_> = (0..200)
        .map(|n| event(if n % 2 == 0 { &one } else { &other }))
        .collect();
    let results = atomic(&server, requests).await.unwrap().results;
    assert_eq!(results.len(), 200);
    for spirit_id in [&one, &other] {
        assert_eq!(stored(&server, spirit_id).await, (1..=100).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn an_atomic_batch_stores_nothing_anywhere_when_one_of_its_spirits_takes_none() {
    let server = TestServer::start().await;
    let (one, other, deleted) = (
        server.spirit().await,
        server.spirit().await,
        server.spirit().await,
    );
    let request = SoftDeleteSpiritRequest {
        spirit_id: deleted.clone(),
        ..SoftDeleteSpiritRequest::default()
    };
    server.spirits().soft_delete_spirit(request).await.unwrap();
    for (what, absent) in [("unknown", UNKNOWN_ID), ("deleted", deleted.as_str())] {
        let requests = vec![event(&one), event(&other), event(absent), event(&one)];
        let status = refused(
            atomic(&server, requests).await,
            Code::NotFound,
            "SPIRIT_NOT_FOUND",
        );
        assert_eq!(metadata(&status, "failed_indexes"), "2", "{what}");
        for spirit_id in [&one, &other, &deleted] {
            assert!(stored(&server, spirit_id).await.is_empty(), "{what}");
        }
    }
    create(&mut server.events(), event(&one)).await;
    assert_eq!(stored(&server, &one).await, [1], "no number was burnt");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_atomic_batch_waits_whole_for_a_spirit_that_is_held() {
    let server = TestServer::start().await;
    let (free, held) = (server.spirit().await, server.spirit().await);
    let mut connection = server.database.connect().await;
    let transaction = lock_spirit(&mut connection, &held).await;
    let requests = vec![event(&free), event(&held), event(&free)];
    let waiting = atomic(&server, requests);
    let meanwhile = async {
        writer_waits(&server).await;
        assert!(stored(&server, &free).await.is_empty(), "nothing of it yet");
        create(&mut server.events(), event(&free)).await;
        transaction.rollback().await.unwrap();
    };
    let (answer, ()) = tokio::join!(waiting, meanwhile);
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
async fn an_atomic_batch_that_waited_too_long_leaves_nothing() {
    if left_out_without_settings("the database has to end the writer's wait, at the writer's own limit") {
        return;
    }
    let server = TestServer::start_with(|settings| {
        settings.store.ingest.flush_timeout = Duration::from_millis(200);
    })
    .await;
    let (free, held) = (server.spirit().await, server.spirit().await);
    let mut connection = server.database.connect().await;
    let transaction = lock_spirit(&mut connection, &held).await;
    let status = atomic(&server, vec![event(&free), event(&held)])
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    transaction.rollback().await.unwrap();
    atomic(&server, vec![event(&free), event(&held)]).await.unwrap();
    for spirit_id in [&free, &held] {
        assert_eq!(stored(&server, spirit_id).await, [1]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_the_database_refuses_fails_its_own_create_only() {
    let server = TestServer::start().await;
    let (spirit_id, busy) = (server.spirit().await, server.spirit().await);
    execute(&server, REFUSE_POISON).await;
    let requests = vec![
        event(&spirit_id),
        poison(&spirit_id),
        keyed(&spirit_id, "k"),
        poison(&busy),
        event(&spirit_id),
    ];
    let answers = together(&server, &busy, requests).await;
    for (n, answer) in answers.into_iter().enumerate() {
        if n % 2 == 1 {
            let status = refused(answer, Code::Internal, "INTERNAL");
            assert!(!status.message().contains("ck_test"), "{status:?}");
        } else {
            answer.unwrap();
        }
    }
    assert_eq!(stored(&server, &spirit_id).await, [1, 2, 3]);
    assert_eq!(stored(&server, &busy).await, [1]);
}

#[tokio::test]
async fn data_that_the_database_refuses_fails_an_atomic_batch_as_a_whole() {
    let server = TestServer::start().await;
    let (one, other) = (server.spirit().await, server.spirit().await);
    execute(&server, REFUSE_POISON).await;
    let requests = vec![event(&one), poison(&other), event(&one)];
    refused(
        atomic(&server, requests.clone()).await,
        Code::Internal,
        "INTERNAL",
    );
    for spirit_id in [&one, &other] {
        assert!(stored(&server, spirit_id).await.is_empty());
    }
    execute(&server, "alter table events drop constraint ck_test").await;
    atomic(&server, requests).await.unwrap();
    assert_eq!(stored(&server, &one).await, [1, 2]);
    assert_eq!(stored(&server, &other).await, [1]);
}

/// What one stream of creates of one spirit was told, by item; `None` for those the database refused.
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
async fn callers_of_two_instances_on_one_spirit_keep_their_order_even_beside_bad_data() {
    const ITEMS: usize = 200;
    let server = TestServer::start().await;
    let beside = TestServer::start_on(Arc::clone(&server.database), |_| {}).await;
    let spirit_id = server.spirit().await;
    execute(&server, REFUSE_POISON).await;
    // One instance stores the bad data, too, so that its flushes fall apart again and again.
    let requests = |bad: bool| -> Vec<_> {
        (0..ITEMS)
            .map(|n| {
                if bad && n % 40 == 20 {
                    poison(&spirit_id)
                } else {
                    event(&spirit_id)
                }
            })
            .collect()
    };
    let streams = (0..8).map(|n| match n % 2 {
        0 => ingest(&server, requests(true)),
        _ => ingest(&beside, requests(false)),
    });
    let told = join_all(streams).await;
    for (n, sequences) in told.iter().enumerate() {
        assert_eq!(sequences.len(), ITEMS);
        let refusals = sequences.iter().filter(|sequence| sequence.is_none()).count();
        assert_eq!(refusals, if n % 2 == 0 { ITEMS / 40 } else { 0 });
        assert!(
            sequences.iter().flatten().is_sorted(),
            "stream {n}: {sequences:?}"
        );
    }
    let mut all: Vec<i64> = told.into_iter().flatten().flatten().collect();
    all.sort_unstable();
    assert_eq!(
        stored(&server, &spirit_id).await,
        all,
        "as acknowledged, each once"
    );
    assert_eq!(all, (1..=i64::try_from(all.len()).unwrap()).collect::<Vec<_>>());
}
