//! Rows that nobody can read: a time of `infinity`, which only PostgreSQL knows, makes the driver panic. It
//! does so inside the tasks that readers, writers and streams share; who asks for such a row is told
//! INTERNAL, and everybody else goes on.

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
/// Calls of each kind at the same time; some of them are gathered.
const TOGETHER: usize = 4;

/// Sets a column of the event to a value that SQL can write.
async fn set(server: &TestServer, event: &Event, column: &str, value: &str) {
    let sql = format!("update events set {column} = {value} where id = '{}'", event.id);
    sqlx::query(AssertSqlSafe(sql))
        .execute(&mut server.database.connect().await)
        .await
        .unwrap();
}

async fn unreadable(server: &TestServer, request: CreateEventRequest) -> Event {
    let event = create(&mut server.events(), request).await;
    set(server, &event, "created_at", "'infinity'").await;
    event
}

/// The holder of its key is found, and cannot be read.
async fn with_unreadable_key(server: &TestServer, spirit_id: &str) {
    let event = create(&mut server.events(), keyed(spirit_id, "k")).await;
    set(server, &event, "occurred_at", "'infinity'").await;
}

async fn get(server: &TestServer, event: &Event) -> Result<Event, Status> {
    let request = GetEventRequest {
        event_id: event.id.clone(),
        ..GetEventRequest::default()
    };
    let got = timeout(PATIENCE, server.events().get_event(request)).await;
    let response = got.expect("an answer comes")?.into_inner();
    Ok(response.event.unwrap())
}

async fn try_create(server: &TestServer, request: CreateEventRequest) -> Result<i64, Status> {
    let created = timeout(PATIENCE, server.events().create_event(request)).await;
    let response = created.expect("an answer comes")?.into_inner();
    Ok(response.event.unwrap().sequence)
}

/// Sequences of the spirit's events, as they are stored.
async fn stored(server: &TestServer) -> Vec<i64> {
    sqlx::query_scalar("select sequence from events order by sequence")
        .fetch_all(&mut server.database.connect().await)
        .await
        .unwrap()
}

/// What these tests rest on: were the driver to return an error instead, they would show nothing of panics.
#[tokio::test]
async fn the_driver_panics_on_one() {
    let database = Database::create().await;
    let mut connection = database.connect().await;
    let row = sqlx::query("select 'infinity'::timestamptz")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    let read = tokio::spawn(async move { row.try_get::<DateTime<Utc>, _>(0).map(drop) });
    assert!(read.await.is_err_and(|error| error.is_panic()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_of_one_fails_alone() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let broken = unreadable(&server, event(&spirit_id)).await;
    let good = create(&mut server.events(), event(&spirit_id)).await;
    for _ in 0..ROUNDS {
        let both = join_all((0..TOGETHER).map(async |_| {
            let (refused, got) = tokio::join!(get(&server, &broken), get(&server, &good));
            assert_eq!(got.unwrap(), good);
            refused
        }));
        for got in both.await {
            refused(got, Code::Internal, "INTERNAL");
        }
    }
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_whose_key_one_has_fails_alone_and_burns_no_number() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    with_unreadable_key(&server, &spirit_id).await;
    let again = || CreateEventRequest {
        on_duplicate: OnDuplicate::ReturnExisting.into(),
        ..keyed(&spirit_id, "k")
    };
    for _ in 0..ROUNDS {
        let both = join_all((0..TOGETHER).map(async |_| {
            let (failed, created) = tokio::join!(
                try_create(&server, again()),
                try_create(&server, event(&spirit_id))
            );
            created.unwrap();
            failed
        }));
        for failed in both.await {
            refused(failed, Code::Internal, "INTERNAL");
        }
    }
    // The items of a batch that may be stored in part fare as single ones do.
    let batch = BatchCreateEventsRequest {
        requests: vec![event(&spirit_id), again(), event(&spirit_id)],
        mode: BatchMode::Partial.into(),
    };
    let results = server
        .events()
        .batch_create_events(batch)
        .await
        .map(Response::into_inner);
    assert_eq!(results.unwrap().results.len(), 3);
    let created = 1 + i64::try_from(ROUNDS * TOGETHER).unwrap() + 2;
    assert!(stored(&server).await.into_iter().eq(1..=created));
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_lock_a_create_whose_key_one_has_fails_alone_too() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    with_unreadable_key(&server, &spirit_id).await;
    for _ in 0..2 {
        let mut connection = server.database.connect().await;
        let transaction = lock_spirit(&mut connection, &spirit_id).await;
        let calls = join_all((0..TOGETHER).map(async |_| {
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
async fn streams_and_pages_with_one_end_and_begin_again_once_it_is_mended() {
    let server = TestServer::start().await;
    let (spirit_id, other) = (server.spirit().await, server.spirit().await);
    let broken = unreadable(&server, event_at(&spirit_id, "s", 1)).await;
    let mut neighbour = watch(&server, beginning(&other)).await.unwrap();
    neighbour.caught_up().await;
    for _ in 0..ROUNDS {
        // Watchers at the same place share their reads.
        let ends = join_all((0..3).map(async |_| {
            let mut watcher = watch(&server, beginning(&spirit_id)).await.unwrap();
            watcher.next().await.map(drop)
        }));
        for end in timeout(PATIENCE, ends).await.expect("all end") {
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
    let created = create(&mut server.events(), event(&other)).await;
    assert_eq!(neighbour.event().await.0, created);

    set(&server, &broken, "created_at", "now()").await;
    let mut watcher = watch(&server, beginning(&spirit_id)).await.unwrap();
    assert_eq!(watcher.event().await.0.id, broken.id);
    server.stop().await.unwrap();
}
