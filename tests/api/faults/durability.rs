//! Acknowledged writes are committed, even when callers abort calls and the server shuts down.

use std::collections::HashSet;
use std::time::Duration;

use elephantasm_events::grpc::pb::event_service_client::EventServiceClient;
use elephantasm_events::grpc::pb::{BatchCreateEventsRequest, BatchMode, UpdateEventRequest};
use futures_util::future::join_all;
use sqlx::PgConnection;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::transport::Channel;

use crate::support::builders::{create, event, keyed, list};
use crate::support::harness::TestServer;

/// Makes a call that the test aborts; its kind depends on its number.
async fn call_to_abort(
    mut events: EventServiceClient<Channel>,
    spirit_id: String,
    event_id: String,
    (burst, call): (u64, i32),
) {
    match call % 4 {
        0 => drop(events.create_event(event(&spirit_id)).await),
        1 => drop(events.list_events(list(&spirit_id)).await),
        2 => {
            let request = UpdateEventRequest {
                event_id,
                role: Some(format!("r{burst}-{call}")),
                ..UpdateEventRequest::default()
            };
            drop(events.update_event(request).await);
        }
        _ => {
            let request = BatchCreateEventsRequest {
                requests: vec![event(&spirit_id); 5],
                mode: BatchMode::Atomic.into(),
            };
            drop(events.batch_create_events(request).await);
        }
    }
}

/// Asserts that every acknowledged event and the last edit are committed, that no transaction is left open, and
/// that the sequences have no gap. Another connection than the server's sees committed rows only.
async fn assert_committed(connection: &mut PgConnection, acknowledged: &[String], last_score: f64) {
    let rows: Vec<(String,)> = sqlx::query_as("select dedupe_key from events where dedupe_key is not null")
        .fetch_all(&mut *connection)
        .await
        .unwrap();
    let committed: HashSet<String> = rows.into_iter().map(|(key,)| key).collect();
    let lost: Vec<&String> = acknowledged
        .iter()
        .filter(|key| !committed.contains(*key))
        .collect();
    assert_eq!(lost, Vec::<&String>::new());
    let (score,): (f64,) = sqlx::query_as("select importance_score from events where dedupe_key = 'edited'")
        .fetch_one(&mut *connection)
        .await
        .unwrap();
    assert!((score - last_score).abs() < f64::EPSILON);
    let (open,): (i64,) = sqlx::query_as(
        "select count(*) from pg_stat_activity
         where datname = current_database() and state like 'idle in transaction%'",
    )
    .fetch_one(&mut *connection)
    .await
    .unwrap();
    assert_eq!(open, 0, "no connection is idle in a transaction");
    let (gaps,): (i64,) = sqlx::query_as("select max(sequence) - count(*) from events")
        .fetch_one(connection)
        .await
        .unwrap();
    assert_eq!(gaps, 0, "the sequences have no gap");
}

/// Calls that are aborted at various stages leave the pooled connections usable: the writes acknowledged after
/// them are committed.
#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_writes_survive_bursts_of_aborted_calls() {
    let server = TestServer::start_with(|settings| settings.store.pool_size = 3).await;
    let spirit_id = server.spirit().await;
    let edited = create(&mut server.events(), keyed(&spirit_id, "edited")).await;
    let mut acknowledged = vec!["edited".to_owned()];
    let mut last_score = 0.0;
    for burst in 0..40u64 {
        let mut calls = JoinSet::new();
        for call in 0..30 {
            let (spirit_id, event_id) = (spirit_id.clone(), edited.id.clone());
            calls.spawn(call_to_abort(server.events(), spirit_id, event_id, (burst, call)));
        }
        // The calls reach different stages before they are aborted.
        drop(timeout(Duration::from_micros(150 * burst), calls.join_next()).await);
        calls.shutdown().await;

        let creates = (0..5).map(|n| {
            let key = format!("{burst}-{n}");
            let (mut events, request) = (server.events(), keyed(&spirit_id, &key));
            async move {
                create(&mut events, request).await;
                key
            }
        });
        acknowledged.extend(join_all(creates).await);
        last_score = f64::from(u32::try_from(burst).unwrap()) / 100.0;
        let request = UpdateEventRequest {
            event_id: edited.id.clone(),
            importance_score: Some(last_score),
            ..UpdateEventRequest::default()
        };
        server.events().update_event(request).await.unwrap();
    }
    assert_committed(&mut server.database.connect().await, &acknowledged, last_score).await;
}

/// The retry of a create whose reply was lost finds the event by its dedupe key if it was stored, and stores it
/// otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_after_a_lost_reply_stores_the_event_once() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    for n in 0..50u64 {
        let key = n.to_string();
        let mut events = server.events();
        let lost = events.create_event(keyed(&spirit_id, &key));
        drop(timeout(Duration::from_micros(40 * n), lost).await);
        drop(server.events().create_event(keyed(&spirit_id, &key)).await);
    }
    let mut connection = server.database.connect().await;
    let (count, last): (i64, i64) = sqlx::query_as("select count(*), max(sequence) from events")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!((count, last), (50, 50));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_commits_every_create_that_it_acknowledges() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let calls: Vec<_> = (0..200)
        .map(|n: u32| {
            let (mut events, request) = (server.events(), keyed(&spirit_id, &n.to_string()));
            tokio::spawn(async move { events.create_event(request).await.is_ok() })
        })
        .collect();
    server.shut_down();
    let mut acknowledged: i64 = 0;
    for call in calls {
        acknowledged += i64::from(call.await.unwrap());
    }
    let database = std::sync::Arc::clone(&server.database);
    server.stop().await.unwrap();
    let (count,): (i64,) = sqlx::query_as("select count(*) from events")
        .fetch_one(&mut database.connect().await)
        .await
        .unwrap();
    assert!(
        count >= acknowledged,
        "{count} stored, {acknowledged} acknowledged"
    );
}
