//! The database is killed in mid-load: what was acknowledged is committed, callers are told to try
//! again, and the service recovers by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use elephantasm_events::grpc::pb::event_service_client::EventServiceClient;
use elephantasm_events::grpc::pb::{CreateEventRequest, CreateOutcome, OnDuplicate};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::Code;
use tonic::transport::Channel;

use crate::builders::{create, event, keyed, list, refused};
use crate::cluster::Cluster;
use crate::harness::{PATIENCE, TestServer, eventually};

const CALLERS: usize = 16;

/// Shared by the callers and the test.
#[derive(Default)]
struct Load {
    created: AtomicUsize,
    failed: AtomicUsize,
    done: AtomicBool,
}

/// Creates with keys, each sent again and again until it is acknowledged; returns keys, ids, sequences.
async fn call(
    mut events: EventServiceClient<Channel>,
    spirit_id: String,
    caller: usize,
    load: Arc<Load>,
) -> Vec<(String, String, i64)> {
    let mut acknowledged = Vec::new();
    while !load.done.load(Ordering::Acquire) {
        let key = format!("{caller}-{}", acknowledged.len());
        let request = CreateEventRequest {
            on_duplicate: OnDuplicate::ReturnExisting.into(),
            ..keyed(&spirit_id, &key)
        };
        let mut first_time = true;
        let response = loop {
            match events.create_event(request.clone()).await {
                Ok(response) => break response.into_inner(),
                error => {
                    refused(error, Code::Unavailable, "DATABASE_UNAVAILABLE");
                    load.failed.fetch_add(1, Ordering::AcqRel);
                    first_time = false;
                }
            }
        };
        assert_ne!(response.outcome(), CreateOutcome::DuplicateDifferent);
        assert!(
            !first_time || response.outcome() == CreateOutcome::Created,
            "a duplicate of nothing"
        );
        let event = response.event.unwrap();
        acknowledged.push((key, event.id, event.sequence));
        load.created.fetch_add(1, Ordering::AcqRel);
    }
    acknowledged
}

/// Waits until so many more creates were acknowledged.
async fn progress(load: &Load, more: usize) {
    let before = load.created.load(Ordering::Acquire);
    eventually("creates are acknowledged", async || {
        (load.created.load(Ordering::Acquire) >= before + more).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_kill_9_of_the_database_every_acknowledged_create_is_there_once() {
    let mut own = Cluster::start(&[]).await;
    let server = TestServer::start_on(Arc::clone(&own.database), |_| {}).await;
    let spirit_id = server.spirit().await;
    let load = Arc::<Load>::default();
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let (events, spirit_id) = (server.events(), spirit_id.clone());
        callers.spawn(call(events, spirit_id, caller, Arc::clone(&load)));
    }
    for _ in 0..2 {
        progress(&load, 50).await;
        let failed = load.failed.load(Ordering::Acquire);
        own.kill().await;
        eventually("callers notice", async || {
            (load.failed.load(Ordering::Acquire) > failed).then_some(())
        })
        .await;
        own.run().await;
    }
    // By itself: nobody restarts the server.
    progress(&load, 50).await;
    load.done.store(true, Ordering::Release);
    let finished = timeout(PATIENCE, callers.join_all()).await.expect("callers end");
    let mut acknowledged: Vec<_> = finished.into_iter().flatten().collect();
    acknowledged.sort_unstable_by_key(|(_, _, sequence)| *sequence);

    let stored: Vec<(String, String, i64)> =
        sqlx::query_as("select dedupe_key, id::text, sequence from events order by sequence")
            .fetch_all(&mut own.database.connect().await)
            .await
            .unwrap();
    assert_eq!(stored, acknowledged, "each once, nothing lost, nothing besides");
    assert!(
        stored
            .iter()
            .map(|(_, _, sequence)| *sequence)
            .eq(1..=i64::try_from(stored.len()).unwrap()),
        "no number is burnt"
    );
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_and_creates_are_unavailable_without_the_database_and_work_again_with_it() {
    let mut own = Cluster::start(&[]).await;
    let server = TestServer::start_on(Arc::clone(&own.database), |_| {}).await;
    let spirit_id = server.spirit().await;
    let first = create(&mut server.events(), event(&spirit_id)).await;
    // Leaves several idle connections that the death of the database breaks.
    let reads = (0..8).map(|_| {
        let (mut events, request) = (server.events(), list(&spirit_id));
        async move { events.list_events(request).await.unwrap() }
    });
    futures_util::future::join_all(reads).await;
    own.kill().await;
    for _ in 0..10 {
        let mut events = server.events();
        let read = events.list_events(list(&spirit_id)).await;
        refused(read, Code::Unavailable, "DATABASE_UNAVAILABLE");
        let written = events.create_event(event(&spirit_id)).await;
        refused(written, Code::Unavailable, "DATABASE_UNAVAILABLE");
    }
    own.run().await;
    let found = server.events().list_events(list(&spirit_id)).await.unwrap();
    assert_eq!(found.into_inner().events, [first]);
    assert_eq!(create(&mut server.events(), event(&spirit_id)).await.sequence, 2);
    server.stop().await.unwrap();
}
