//! The database is killed in mid-load: what was acknowledged is committed, callers are told to try
//! again, and the service recovers by itself.

use std::sync::Arc;

use tonic::Code;

use crate::support::builders::{create, event, list, refused};
use crate::support::cluster::Cluster;
use crate::support::harness::TestServer;
use crate::support::load::Load;

#[tokio::test(flavor = "multi_thread")]
async fn after_kill_9_of_the_database_every_acknowledged_create_is_there_once() {
    let mut own = Cluster::start(&[]).await;
    let server = TestServer::start_on(Arc::clone(&own.database), |_| {}).await;
    let spirit_id = server.spirit().await;
    let load = Load::start(&server, &spirit_id).await;
    for _ in 0..2 {
        load.wait_for_creates(50).await;
        own.kill().await;
        load.wait_for_refusals(1).await;
        own.run().await;
    }
    // By itself: nobody restarts the server.
    load.wait_for_creates(50).await;
    let reasons = load.refusals().reasons;
    assert!(reasons.iter().eq(["DATABASE_UNAVAILABLE"]), "{reasons:?}");
    load.finish_and_verify(&mut own.database.connect().await).await;
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
