//! Flushes that are large enough for `COPY`: stored values, taken dedupe keys, data that the database rejects, and
//! interruptions in the middle.

use std::sync::Arc;

use elephantasm_events::grpc::pb::batch_create_events_result::Result as Item;
use elephantasm_events::grpc::pb::{
    BatchCreateEventsRequest, BatchMode, CreateEventRequest, CreateOutcome, Event, OnDuplicate,
};
use sqlx::{Connection as _, Executor as _, PgConnection, Postgres, Transaction};
use tokio::task::JoinHandle;
use tonic::{Code, Response, Status};

use crate::support::builders::{at, create, event, get, keyed, number, object, refused, text};
use crate::support::cluster::Cluster;
use crate::support::harness::{Database, TestServer, eventually, skipped_behind_pooler, skipped_with_shards};
use crate::support::proxy::Proxy;

/// Events of a batch, well above the size from which `COPY` is used.
const EVENTS: usize = 400;

async fn create_batch(
    server: &TestServer,
    requests: Vec<CreateEventRequest>,
    mode: BatchMode,
) -> Result<Vec<Item>, Status> {
    let request = BatchCreateEventsRequest {
        requests,
        mode: mode.into(),
    };
    let response = server.events().batch_create_events(request).await;
    let results = response.map(Response::into_inner)?.results;
    Ok(results.into_iter().map(|result| result.result.unwrap()).collect())
}

/// The event of a stored item.
fn stored(item: Item) -> Event {
    match item {
        Item::Created(created) => created.event.unwrap(),
        Item::Error(error) => panic!("refused: {error:?}"),
    }
}

/// The stored sequences of a spirit, in ascending order, and its last sequence.
async fn sequences(server: &TestServer, spirit_id: &str) -> (Vec<i64>, i64) {
    let (sequences, last): (Option<Vec<i64>>, i64) = sqlx::query_as(
        "select (select array_agg(sequence order by sequence) from events where spirit_id = spirits.id),
             last_sequence
         from spirits
         where id = $1::uuid",
    )
    .bind(spirit_id)
    .fetch_one(&mut server.database.connect().await)
    .await
    .unwrap();
    (sequences.unwrap_or_default(), last)
}

/// The sequences of a spirit with this number of events.
fn gapless(events: usize) -> (Vec<i64>, i64) {
    let last = i64::try_from(events).unwrap();
    ((1..=last).collect(), last)
}

/// A create with every field, different for each number.
fn full_event(spirit_id: &str, n: usize) -> CreateEventRequest {
    let seconds = i64::try_from(n).unwrap() * 86_400 * 30;
    CreateEventRequest {
        event_type: format!("type.{n}"),
        meta_summary: Some(format!("summary {n} é")),
        content: Some(format!("content {n} 🐘\n\t\\")),
        occurred_at: Some(at(seconds - 62_000_000)),
        session_id: Some(format!("session {n}")),
        role: Some("user".to_owned()),
        author: Some(format!("author {n}")),
        meta: Some(object([("n", number(1.5)), ("text", text("ä \" \\"))])),
        source_uri: Some(format!("https://example.com/{n}")),
        dedupe_key: Some(format!("key {n}")),
        importance_score: Some(0.125),
        ..event(spirit_id)
    }
}

#[tokio::test]
async fn every_field_of_a_large_batch_is_stored_as_sent_and_as_replied() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let requests: Vec<_> = (0..EVENTS)
        .map(|n| match n % 2 {
            0 => full_event(&spirit_id, n),
            _ => event(&spirit_id),
        })
        .collect();
    let replies = create_batch(&server, requests.clone(), BatchMode::Atomic)
        .await
        .unwrap();
    for (n, (request, reply)) in requests.into_iter().zip(replies).enumerate().step_by(57) {
        let reply = stored(reply);
        let found = server
            .events()
            .get_event(get(&reply.id))
            .await
            .unwrap()
            .into_inner();
        let found = found.event.unwrap();
        let basic = Event {
            content: None,
            meta: None,
            ..found.clone()
        };
        assert_eq!(basic, reply, "item {n}");
        assert_eq!(found.sequence, i64::try_from(n).unwrap() + 1);
        assert_eq!(found.content, request.content);
        assert_eq!(found.meta, request.meta.or_else(|| Some(object([]))));
        assert_eq!(found.meta_summary, request.meta_summary);
        assert_eq!(found.author, request.author);
        assert_eq!(found.importance_score, request.importance_score);
        if request.occurred_at.is_some() {
            assert_eq!(found.occurred_at, request.occurred_at);
        }
    }
    assert_eq!(sequences(&server, &spirit_id).await, gapless(EVENTS));
}

#[tokio::test]
async fn a_large_batch_with_taken_dedupe_keys_names_them_and_stores_the_rest() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let taken = create(&mut server.events(), keyed(&spirit_id, "key 7")).await;
    let requests: Vec<_> = (0..EVENTS)
        .map(|n| CreateEventRequest {
            on_duplicate: match n {
                0..10 => OnDuplicate::ReturnExisting.into(),
                _ => OnDuplicate::Reject.into(),
            },
            ..keyed(&spirit_id, &format!("key {}", n.min(EVENTS - 2)))
        })
        .collect();
    refused(
        create_batch(&server, requests.clone(), BatchMode::Atomic).await,
        Code::AlreadyExists,
        "DUPLICATE_EVENT",
    );
    assert_eq!(sequences(&server, &spirit_id).await, gapless(1));
    let results = create_batch(&server, requests, BatchMode::Partial).await.unwrap();
    for (n, result) in results.into_iter().enumerate() {
        match result {
            Item::Created(created) if n == 7 => {
                assert_eq!(created.outcome(), CreateOutcome::Duplicate);
                assert_eq!(created.event.unwrap().id, taken.id);
            }
            Item::Created(created) => assert_eq!(created.outcome(), CreateOutcome::Created),
            Item::Error(error) => {
                assert_eq!((n, error.code), (EVENTS - 1, i32::from(Code::AlreadyExists)));
            }
        }
    }
    assert_eq!(sequences(&server, &spirit_id).await, gapless(EVENTS - 1));
}

#[tokio::test]
async fn an_item_of_a_large_batch_that_the_database_rejects_fails_alone() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut connection = server.database.connect().await;
    connection
        .execute("alter table events add constraint ck_test check (content <> 'poison')")
        .await
        .unwrap();
    let mut requests = vec![event(&spirit_id); EVENTS];
    requests[EVENTS / 2].content = Some("poison".to_owned());
    refused(
        create_batch(&server, requests.clone(), BatchMode::Atomic).await,
        Code::Internal,
        "INTERNAL",
    );
    assert_eq!(sequences(&server, &spirit_id).await, gapless(0));
    let results = create_batch(&server, requests, BatchMode::Partial).await.unwrap();
    for (n, result) in results.into_iter().enumerate() {
        assert_eq!(matches!(result, Item::Error(_)), n == EVENTS / 2, "item {n}");
    }
    assert_eq!(sequences(&server, &spirit_id).await, gapless(EVENTS - 1));
}

/// Holds the dedupe key of an item in an open transaction, so that the `COPY` of its batch waits for the end of
/// the transaction.
async fn hold_key<'c>(
    connection: &'c mut PgConnection,
    spirit_id: &str,
    dedupe_key: &str,
) -> Transaction<'c, Postgres> {
    let mut transaction = connection.begin().await.unwrap();
    sqlx::query(
        "insert into events (id, spirit_id, sequence, event_type, content, occurred_at, dedupe_key)
         values (gen_random_uuid(), $1::uuid, 1000000, 'held', '', now(), $2)",
    )
    .bind(spirit_id)
    .bind(dedupe_key)
    .execute(&mut *transaction)
    .await
    .unwrap();
    transaction
}

fn keyed_batch(spirit_id: &str) -> Vec<CreateEventRequest> {
    (0..EVENTS)
        .map(|n| keyed(spirit_id, &format!("key {n}")))
        .collect()
}

fn start_batch(server: &TestServer, spirit_id: &str) -> JoinHandle<Result<usize, Status>> {
    let mut events = server.events();
    let request = BatchCreateEventsRequest {
        requests: keyed_batch(spirit_id),
        mode: BatchMode::Atomic.into(),
    };
    tokio::spawn(async move {
        let response = events.batch_create_events(request).await?;
        Ok(response.into_inner().results.len())
    })
}

/// Waits until a `COPY` waits for a lock; returns its backend.
async fn waiting_copy(server: &TestServer) -> i32 {
    let mut observer = server.database.connect().await;
    eventually("a COPY waits for a lock", async || {
        let row: Option<(i32,)> = sqlx::query_as(
            "select pid
             from pg_stat_activity
             where datname = current_database()
             and wait_event_type = 'Lock'
             and query like '%copy events%'
             and query not like '%pg_stat_activity%'",
        )
        .fetch_optional(&mut observer)
        .await
        .unwrap();
        row.map(|(pid,)| pid)
    })
    .await
}

async fn signal(server: &TestServer, function: &str, backend: i32) {
    let mut connection = server.database.connect().await;
    let sql = format!("select {function}({backend})");
    connection.execute(sqlx::AssertSqlSafe(sql)).await.unwrap();
}

const NO_COPY: &str = "flushes of a distributed database do not use COPY";

#[tokio::test(flavor = "multi_thread")]
async fn a_large_flush_whose_backend_is_terminated_during_copy_is_stored_once_by_its_retry() {
    if skipped_with_shards(NO_COPY) {
        return;
    }
    if skipped_behind_pooler("the pooler fails the client's connection in its own way") {
        return;
    }
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut connection = server.database.connect().await;
    let held = hold_key(&mut connection, &spirit_id, "key 200").await;
    let batch = start_batch(&server, &spirit_id);
    let first = waiting_copy(&server).await;
    signal(&server, "pg_terminate_backend", first).await;
    let second = eventually("the retry waits", async || {
        let backend = waiting_copy(&server).await;
        (backend != first).then_some(backend)
    })
    .await;
    assert_ne!(first, second);
    held.rollback().await.unwrap();
    assert_eq!(batch.await.unwrap().unwrap(), EVENTS);
    assert_eq!(sequences(&server, &spirit_id).await, gapless(EVENTS));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_flush_that_is_cancelled_during_copy_stores_nothing_and_its_writer_goes_on() {
    if skipped_with_shards(NO_COPY) {
        return;
    }
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut connection = server.database.connect().await;
    let held = hold_key(&mut connection, &spirit_id, "key 200").await;
    let batch = start_batch(&server, &spirit_id);
    let backend = waiting_copy(&server).await;
    signal(&server, "pg_cancel_backend", backend).await;
    let status = batch.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    held.rollback().await.unwrap();
    assert_eq!(sequences(&server, &spirit_id).await, gapless(0));
    let stored = start_batch(&server, &spirit_id).await.unwrap().unwrap();
    assert_eq!(stored, EVENTS);
    create(&mut server.events(), event(&spirit_id)).await;
    assert_eq!(sequences(&server, &spirit_id).await, gapless(EVENTS + 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_flush_whose_caller_goes_away_during_copy_is_stored_completely() {
    if skipped_with_shards(NO_COPY) {
        return;
    }
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut connection = server.database.connect().await;
    let held = hold_key(&mut connection, &spirit_id, "key 200").await;
    let batch = start_batch(&server, &spirit_id);
    waiting_copy(&server).await;
    batch.abort();
    assert!(batch.await.unwrap_err().is_cancelled());
    held.rollback().await.unwrap();
    create(&mut server.events(), event(&spirit_id)).await;
    assert_eq!(sequences(&server, &spirit_id).await, gapless(EVENTS + 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_flush_over_tcp_is_a_statement() {
    if skipped_with_shards(NO_COPY) {
        return;
    }
    let cluster = Cluster::start(&[("fsync", "off")]).await;
    let proxy = Proxy::start(cluster.socket()).await;
    let over_tcp = Database::external(cluster.connect_through(proxy.addr));
    let server = TestServer::start_on(Arc::new(over_tcp), |_| {}).await;
    let spirit_id = server.spirit().await;
    let mut connection = server.database.connect().await;
    let held = hold_key(&mut connection, &spirit_id, "key 200").await;
    let batch = start_batch(&server, &spirit_id);
    let mut observer = server.database.connect().await;
    let waiting = eventually("the flush waits for the key", async || {
        let statements: Vec<String> =
            sqlx::query_scalar("select query from pg_stat_activity where wait_event_type = 'Lock'")
                .fetch_all(&mut observer)
                .await
                .unwrap();
        statements.into_iter().next()
    })
    .await;
    assert!(waiting.starts_with("-- The fast path of a flush"), "{waiting}");
    held.rollback().await.unwrap();
    assert_eq!(batch.await.unwrap().unwrap(), EVENTS);
    assert_eq!(sequences(&server, &spirit_id).await, gapless(EVENTS));
}
