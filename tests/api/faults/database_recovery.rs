//! A database in recovery, and a hot standby: reads work where the database allows them, writes fail with an
//! error that names the read-only database, and work after a promotion without a restart of the service.

use std::sync::Arc;

use elephantasm_events::grpc::pb::{CreateEventRequest, GetEventRequest, GetSpiritRequest};
use sqlx::Executor as _;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus::{NotServing, Serving};

use crate::support::builders::{create, event, keyed, list, refused};
use crate::support::cluster::Cluster;
use crate::support::harness::{TestServer, eventually};
use crate::support::health_watch::HealthWatch;
use crate::support::load::{CALLERS, Load, acknowledged, connections, short_timeouts};
use crate::support::scrape::Scrape;

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_unavailable_while_the_database_recovers() {
    let mut cluster = Cluster::start(&[("fsync", "off")]).await;
    let server = TestServer::start_on(Arc::clone(&cluster.database), short_timeouts).await;
    let mut health = HealthWatch::start(&server).await;
    let (spirit_id, of_another) = (server.spirit().await, server.spirit().await);
    let load = Load::start(&server, &spirit_id).await;
    load.wait_for_creates(50).await;
    cluster.kill().await;
    cluster.run_in_recovery().await;
    health.wait_for(NotServing).await;
    load.wait_for_refusals(CALLERS).await;
    // Without short timeouts: it opens its connections beside the load, in the same process.
    let another = tokio::spawn(TestServer::start_on(Arc::clone(&cluster.database), |_| {}));
    cluster.promote().await;
    health.wait_for(Serving).await;
    load.wait_for_creates(50).await;
    let another = another.await.unwrap();
    acknowledged(&mut another.events(), keyed(&of_another, "another")).await;
    another.stop().await.unwrap();
    load.finish_and_verify_connections(&mut cluster.database.connect().await)
        .await;
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_on_a_standby_serves_reads_and_takes_writes_after_the_promotion() {
    let primary = Cluster::start(&[("fsync", "off")]).await;
    let primary_server = TestServer::start_on(Arc::clone(&primary.database), |_| {}).await;
    let spirit_id = primary_server.spirit().await;
    let first = create(&mut primary_server.events(), event(&spirit_id)).await;
    let mut standby = primary.standby(&[("fsync", "off")]).await;

    let server = TestServer::start_on(Arc::clone(&standby.database), |_| {}).await;
    let mut health = HealthWatch::start(&server).await;
    let mut events = server.events();
    let second = create(&mut primary_server.events(), event(&spirit_id)).await;
    eventually(
        "the standby returns the events written to the primary",
        async || {
            let listed = events.list_events(list(&spirit_id)).await.unwrap();
            (listed.into_inner().events == [second.clone(), first.clone()]).then_some(())
        },
    )
    .await;
    for _ in 0..3 {
        let rejected = events.create_event(event(&spirit_id)).await;
        let status = refused(rejected, Code::Unavailable, "DATABASE_UNAVAILABLE");
        assert!(status.message().contains("read-only"), "{status:?}");
        let request = GetEventRequest {
            event_id: first.id.clone(),
            ..GetEventRequest::default()
        };
        let got = events.get_event(request).await.unwrap().into_inner();
        assert_eq!(got.event.as_ref(), Some(&first));
    }

    primary_server.stop().await.unwrap();
    drop(primary);
    standby.promote().await;
    let third = eventually("a create succeeds after the promotion", async || {
        server.events().create_event(event(&spirit_id)).await.ok()
    })
    .await;
    assert_eq!(third.into_inner().event.unwrap().sequence, 3);
    server.shut_down();
    health.expect_next(NotServing).await; // the first change: health was SERVING until now
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_on_a_standby_waits_until_its_primary_is_migrated() {
    let primary = Cluster::start(&[("fsync", "off")]).await;
    let standby = primary.standby(&[("fsync", "off")]).await;
    let waiting = tokio::spawn(TestServer::start_on(Arc::clone(&standby.database), |_| {}));
    let mut observer = standby.database.connect().await;
    eventually("the server has connected", async || {
        (connections(&mut observer).await > 0).then_some(())
    })
    .await;
    let primary_server = TestServer::start_on(Arc::clone(&primary.database), |_| {}).await;
    let spirit_id = primary_server.spirit().await;
    let server = waiting.await.unwrap();
    eventually(
        "the standby returns the spirit created on the primary",
        async || {
            let request = GetSpiritRequest {
                spirit_id: spirit_id.clone(),
                ..GetSpiritRequest::default()
            };
            server.spirits().get_spirit(request).await.ok()
        },
    )
    .await;
    server.stop().await.unwrap();
    primary_server.stop().await.unwrap();
}

/// Simulates a failover behind a DNS name or a pooler: open connections lead to a read-only database, new
/// connections to a writable one. A guard requires a full flush; a create without one takes the fast path.
#[tokio::test(flavor = "multi_thread")]
async fn a_create_on_a_connection_turned_read_only_is_stored_through_a_new_one() {
    let cluster = Cluster::start(&[("fsync", "off")]).await;
    let plain = TestServer::start_on(Arc::clone(&cluster.database), |_| {}).await;
    let guarded = TestServer::start_on(Arc::clone(&cluster.database), |_| {}).await;
    let spirit_id = plain.spirit().await;
    for server in [&plain, &guarded] {
        create(&mut server.events(), event(&spirit_id)).await;
    }
    let mut observer = cluster.database.connect().await;
    for sql in [
        "alter database postgres set default_transaction_read_only = off",
        "alter system set default_transaction_read_only = on",
        "select pg_reload_conf()",
    ] {
        observer.execute(sql).await.unwrap();
    }
    let mut last = 2;
    for (server, is_guarded) in [(&plain, false), (&guarded, true)] {
        eventually("a flush has failed on a read-only connection", async || {
            let request = CreateEventRequest {
                expected_last_sequence: is_guarded.then_some(last),
                ..event(&spirit_id)
            };
            last += 1;
            assert_eq!(create(&mut server.events(), request).await.sequence, last);
            let failures = Scrape::of(server).await.count("events_flush_failures_total");
            (failures > 0).then_some(())
        })
        .await;
    }
    plain.stop().await.unwrap();
    guarded.stop().await.unwrap();
}
