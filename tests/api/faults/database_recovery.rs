//! A database that recovers, and one that stands by: it is read where it lets itself be read, refuses
//! writes in words that say why, and takes them once it is promoted, without a restart of the service.

use std::sync::Arc;

use elephantasm_events::grpc::pb::{CreateEventRequest, GetEventRequest, GetSpiritRequest};
use sqlx::Executor as _;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus::{NotServing, Serving};

use crate::support::builders::{create, event, keyed, list, refused};
use crate::support::cluster::Cluster;
use crate::support::harness::{TestServer, eventually};
use crate::support::health_watch::HealthWatch;
use crate::support::load::{Load, connections, short_timeouts};
use crate::support::scrape::Scrape;

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_recovers_is_away_until_it_has_recovered() {
    let mut own = Cluster::start(&[("fsync", "off")]).await;
    let server = TestServer::start_on(Arc::clone(&own.database), short_timeouts).await;
    let mut health = HealthWatch::start(&server).await;
    let spirit_id = server.spirit().await;
    let load = Load::start(&server, &spirit_id).await;
    load.wait_for_creates(50).await;
    own.kill().await;
    own.run_in_recovery().await;
    health.wait_for(NotServing).await;
    load.wait_for_refusals(50).await;
    let another = tokio::spawn(TestServer::start_on(Arc::clone(&own.database), short_timeouts));
    own.promote().await;
    health.wait_for(Serving).await;
    load.wait_for_creates(50).await;
    let another = another.await.unwrap();
    create(&mut another.events(), keyed(&spirit_id, "another")).await;
    another.stop().await.unwrap();
    load.finish_and_verify_connections(&mut own.database.connect().await)
        .await;
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_on_a_standby_reads_and_once_it_is_promoted_writes() {
    let primary = Cluster::start(&[("fsync", "off")]).await;
    let home = TestServer::start_on(Arc::clone(&primary.database), |_| {}).await;
    let spirit_id = home.spirit().await;
    let first = create(&mut home.events(), event(&spirit_id)).await;
    let mut standby = primary.standby(&[("fsync", "off")]).await;

    let server = TestServer::start_on(Arc::clone(&standby.database), |_| {}).await;
    let mut health = HealthWatch::start(&server).await;
    let mut events = server.events();
    let second = create(&mut home.events(), event(&spirit_id)).await;
    eventually("what is written to the primary is read", async || {
        let listed = events.list_events(list(&spirit_id)).await.unwrap();
        (listed.into_inner().events == [second.clone(), first.clone()]).then_some(())
    })
    .await;
    for _ in 0..3 {
        let written = events.create_event(event(&spirit_id)).await;
        let status = refused(written, Code::Unavailable, "DATABASE_UNAVAILABLE");
        assert!(status.message().contains("read-only"), "{status:?}");
        let request = GetEventRequest {
            event_id: first.id.clone(),
            ..GetEventRequest::default()
        };
        let got = events.get_event(request).await.unwrap().into_inner();
        assert_eq!(got.event.as_ref(), Some(&first));
    }

    home.stop().await.unwrap();
    drop(primary);
    standby.promote().await;
    let third = eventually("creates are taken", async || {
        server.events().create_event(event(&spirit_id)).await.ok()
    })
    .await;
    assert_eq!(third.into_inner().event.unwrap().sequence, 3);
    server.shut_down();
    health.expect_next(NotServing).await; // and not before: it served all the time
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_on_a_standby_waits_until_its_primary_is_migrated() {
    let primary = Cluster::start(&[("fsync", "off")]).await;
    let standby = primary.standby(&[("fsync", "off")]).await;
    let waiting = tokio::spawn(TestServer::start_on(Arc::clone(&standby.database), |_| {}));
    let mut beside = standby.database.connect().await;
    eventually("the server has connected", async || {
        (connections(&mut beside).await > 0).then_some(())
    })
    .await;
    let home = TestServer::start_on(Arc::clone(&primary.database), |_| {}).await;
    let spirit_id = home.spirit().await;
    let server = waiting.await.unwrap();
    eventually("what is written to the primary is read", async || {
        let request = GetSpiritRequest {
            spirit_id: spirit_id.clone(),
            ..GetSpiritRequest::default()
        };
        server.spirits().get_spirit(request).await.ok()
    })
    .await;
    server.stop().await.unwrap();
    home.stop().await.unwrap();
}

/// As after a failover behind a name or a pooler: the connections that there are lead to a database that
/// takes no writes any more, new ones to one that does.
#[tokio::test(flavor = "multi_thread")]
async fn a_create_whose_connection_takes_no_writes_any_more_is_stored_by_a_new_one() {
    let own = Cluster::start(&[("fsync", "off")]).await;
    let plain = TestServer::start_on(Arc::clone(&own.database), |_| {}).await;
    let guarded = TestServer::start_on(Arc::clone(&own.database), |_| {}).await;
    let spirit_id = plain.spirit().await;
    for server in [&plain, &guarded] {
        create(&mut server.events(), event(&spirit_id)).await;
    }
    let mut beside = own.database.connect().await;
    for sql in [
        "alter database postgres set default_transaction_read_only = off",
        "alter system set default_transaction_read_only = on",
        "select pg_reload_conf()",
    ] {
        beside.execute(sql).await.unwrap();
    }
    let mut last = 2;
    for (server, is_guarded) in [(&plain, false), (&guarded, true)] {
        eventually("a connection took no writes", async || {
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
