//! Rows that the driver cannot decode: a timestamp of `infinity`, which only PostgreSQL has, makes the driver
//! panic inside the tasks that reads, writes and streams share. A call that needs such a row gets INTERNAL;
//! concurrent calls succeed.

use elephantasm_events::grpc::pb::{
    BatchCreateEventsRequest, BatchMode, CreateEventRequest, Event, GetEventRequest, OnDuplicate,
};
use futures_util::future::join_all;
use sqlx::types::chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, Row as _};
use tokio::time::timeout;
use tonic::{Code, Response, Status};

use crate::support::builders::{create, drain, event, event_at, keyed, list, lock_spirit, refused, stream};
use crate::support::harness::{Database, PATIENCE, TestServer};
use crate::support::live::{beginning, watch};

const ROUNDS: usize = 3;
/// Concurrent calls of each kind; the server combines some of them into one statement.
const CONCURRENT: usize = 4;

/// Sets a column of the event to an SQL expression.
async fn set_column(server: &TestServer, event: &Event, column: &str, value: &str) {
    let sql = format!("update events set {column} = {value} where id = '{}'", event.id);
    sqlx::query(AssertSqlSafe(sql))
        .execute(&mut server.database.connect().await)
        .await
        .unwrap();
}

/// Creates an event and makes its row undecodable.
async fn create_unreadable(server: &TestServer, request: CreateEventRequest) -> Event {
    let event = create(&mut server.events(), request).await;
    set_column(server, &event, "created_at", "'infinity'").await;
    event
}

/// Creates an event with the dedupe key `k` whose row is found by that key and cannot be decoded.
async fn create_unreadable_holder_of_key(server: &TestServer, spirit_id: &str) {
    let event = create(&mut server.events(), keyed(spirit_id, "k")).await;
    set_column(server, &event, "occurred_at", "'infinity'").await;
}

async fn get(server: &TestServer, event: &Event) -> Result<Event, Status> {
    let request = GetEventRequest {
        event_id: event.id.clone(),
        ..GetEventRequest::default()
    };
    let reply = timeout(PATIENCE, server.events().get_event(request)).await;
    let response = reply.expect("GetEvent is answered in time")?.into_inner();
    Ok(response.event.unwrap())
}

async fn try_create(server: &TestServer, request: CreateEventRequest) -> Result<i64, Status> {
    let reply = timeout(PATIENCE, server.events().create_event(request)).await;
    let response = reply.expect("CreateEvent is answered in time")?.into_inner();
    Ok(response.event.unwrap().sequence)
}

/// The stored sequences, in ascending order.
async fn stored_sequences(server: &TestServer) -> Vec<i64> {
    sqlx::query_scalar("select sequence from events order by sequence")
        .fetch_all(&mut server.database.connect().await)
        .await
        .unwrap()
}

/// The premise of these tests: if the driver returned an error instead, they would not exercise panics.
#[tokio::test]
async fn the_driver_panics_on_an_infinite_timestamp() {
    let database = Database::empty().await;
    let mut connection = database.connect().await;
    let row = sqlx::query("select 'infinity'::timestamptz")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    let decoding = tokio::spawn(async move { row.try_get::<DateTime<Utc>, _>(0).map(drop) });
    assert!(decoding.await.is_err_and(|error| error.is_panic()));
}

#[tokio::test(flavor = "multi_thread")]
async fn get_event_fails_on_an_unreadable_event_without_failing_concurrent_calls() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let broken = create_unreadable(&server, event(&spirit_id)).await;
    let readable = create(&mut server.events(), event(&spirit_id)).await;
    for _ in 0..ROUNDS {
        let calls = join_all((0..CONCURRENT).map(async |_| {
            let (failed, got) = tokio::join!(get(&server, &broken), get(&server, &readable));
            assert_eq!(got.unwrap(), readable);
            failed
        }));
        for failed in calls.await {
            refused(failed, Code::Internal, "INTERNAL");
        }
    }
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_of_an_unreadable_event_fails_alone_and_uses_no_sequence() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    create_unreadable_holder_of_key(&server, &spirit_id).await;
    let duplicate = || CreateEventRequest {
        on_duplicate: OnDuplicate::ReturnExisting.into(),
        ..keyed(&spirit_id, "k")
    };
    for _ in 0..ROUNDS {
        let calls = join_all((0..CONCURRENT).map(async |_| {
            let (failed, created) = tokio::join!(
                try_create(&server, duplicate()),
                try_create(&server, event(&spirit_id))
            );
            created.unwrap();
            failed
        }));
        for failed in calls.await {
            refused(failed, Code::Internal, "INTERNAL");
        }
    }
    // The items of a partial batch fail or succeed as single creates do.
    let batch = BatchCreateEventsRequest {
        requests: vec![event(&spirit_id), duplicate(), event(&spirit_id)],
        mode: BatchMode::Partial.into(),
    };
    let results = server
        .events()
        .batch_create_events(batch)
        .await
        .map(Response::into_inner);
    assert_eq!(results.unwrap().results.len(), 3);
    let created = 1 + i64::try_from(ROUNDS * CONCURRENT).unwrap() + 2;
    assert!(stored_sequences(&server).await.into_iter().eq(1..=created));
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_of_an_unreadable_event_fails_alone_for_a_locked_spirit() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    create_unreadable_holder_of_key(&server, &spirit_id).await;
    for _ in 0..2 {
        let mut connection = server.database.connect().await;
        let transaction = lock_spirit(&mut connection, &spirit_id).await;
        let calls = join_all((0..CONCURRENT).map(async |_| {
            let failing = try_create(&server, keyed(&spirit_id, "k"));
            let (failed, created) = tokio::join!(failing, try_create(&server, event(&spirit_id)));
            created.unwrap();
            failed
        }));
        let (failed, ()) = tokio::join!(calls, async { transaction.rollback().await.unwrap() });
        for failed in failed {
            refused(failed, Code::Internal, "INTERNAL");
        }
    }
    try_create(&server, event(&spirit_id)).await.unwrap();
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_and_lists_fail_on_an_unreadable_event_and_recover_after_its_repair() {
    let server = TestServer::start().await;
    let (spirit_id, other_spirit) = (server.spirit().await, server.spirit().await);
    let broken = create_unreadable(&server, event_at(&spirit_id, "s", 1)).await;
    let mut other_watcher = watch(&server, beginning(&other_spirit)).await.unwrap();
    other_watcher.caught_up().await;
    for _ in 0..ROUNDS {
        // Watchers at the same position share their reads.
        let watches = join_all((0..3).map(async |_| {
            let mut watcher = watch(&server, beginning(&spirit_id)).await.unwrap();
            watcher.next().await.map(drop)
        }));
        for end in timeout(PATIENCE, watches).await.expect("all watches end") {
            refused(end, Code::Internal, "INTERNAL");
        }
        let mut events = server.events();
        let replay = events.stream_session_events(stream(&spirit_id, "s")).await;
        refused(
            drain(replay.unwrap().into_inner()).await,
            Code::Internal,
            "INTERNAL",
        );
        let page = events.list_events(list(&spirit_id)).await;
        refused(page, Code::Internal, "INTERNAL");
    }
    let created = create(&mut server.events(), event(&other_spirit)).await;
    assert_eq!(other_watcher.event().await.0, created);

    set_column(&server, &broken, "created_at", "now()").await;
    let mut watcher = watch(&server, beginning(&spirit_id)).await.unwrap();
    assert_eq!(watcher.event().await.0.id, broken.id);
    server.stop().await.unwrap();
}
