//! The database is killed under load: acknowledged events are committed, calls fail with a retryable error, and
//! the service recovers without a restart.

use std::sync::Arc;

use tonic::Code;

use crate::support::builders::{create, event, list, refused};
use crate::support::cluster::Cluster;
use crate::support::harness::TestServer;
use crate::support::load::Load;

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_create_is_stored_once_after_kill_9_of_the_database() {
    let mut cluster = Cluster::start(&[]).await;
    let server = TestServer::start_on(Arc::clone(&cluster.database), |_| {}).await;
    let spirit_id = server.spirit().await;
    let load = Load::start(&server, &spirit_id).await;
    for _ in 0..2 {
        load.wait_for_creates(50).await;
        cluster.kill().await;
        load.wait_for_refusals(1).await;
        cluster.run().await;
    }
    // The server recovers without a restart.
    load.wait_for_creates(50).await;
    let reasons = load.refusals().reasons;
    assert!(reasons.iter().eq(["DATABASE_UNAVAILABLE"]), "{reasons:?}");
    load.finish_and_verify(&mut cluster.database.connect().await)
        .await;
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_and_creates_fail_without_the_database_and_succeed_once_it_is_back() {
    let mut cluster = Cluster::start(&[]).await;
    let server = TestServer::start_on(Arc::clone(&cluster.database), |_| {}).await;
    let spirit_id = server.spirit().await;
    let first = create(&mut server.events(), event(&spirit_id)).await;
    // Leaves several idle connections, which the kill breaks.
    let reads = (0..8).map(|_| {
        let (mut events, request) = (server.events(), list(&spirit_id));
        async move { events.list_events(request).await.unwrap() }
    });
    futures_util::future::join_all(reads).await;
    cluster.kill().await;
    for _ in 0..10 {
        let mut events = server.events();
        let read = events.list_events(list(&spirit_id)).await;
        refused(read, Code::Unavailable, "DATABASE_UNAVAILABLE");
        let written = events.create_event(event(&spirit_id)).await;
        refused(written, Code::Unavailable, "DATABASE_UNAVAILABLE");
    }
    cluster.run().await;
    let found = server.events().list_events(list(&spirit_id)).await.unwrap();
    assert_eq!(found.into_inner().events, [first]);
    assert_eq!(create(&mut server.events(), event(&spirit_id)).await.sequence, 2);
    server.stop().await.unwrap();
}
