//! Network faults between the service and its database: delay, resets, silently dropped packets.

use std::sync::Arc;
use std::time::Duration;

use elephantasm_events::grpc::pb::UpdateSpiritRequest;
use futures_util::future::join_all;
use tokio::time::{Instant, sleep};
use tonic_health::pb::health_check_response::ServingStatus::{NotServing, Serving};

use crate::support::builders::{create, event, list, lock_spirit};
use crate::support::cluster::Cluster;
use crate::support::connections::CONNECTIONS_MAX;
use crate::support::harness::{Database, Settings, TestServer, eventually, skipped_behind_pooler};
use crate::support::health_watch::HealthWatch;
use crate::support::load::{CALLERS, Load, connections, short_timeouts};
use crate::support::proxy::{NetworkState, Proxy};
use crate::support::scrape::{Scrape, metric_reaches};

/// Longer than any test waits.
const NEVER: Duration = Duration::from_secs(600);
const SKIP_REASON: &str = "the faulty network lies between the service and a PostgreSQL of the test's own";

/// A server that reaches its own PostgreSQL through a proxy that simulates network faults.
struct ProxiedServer {
    cluster: Cluster,
    proxy: Proxy,
    server: TestServer,
}

impl ProxiedServer {
    async fn start(set: impl FnOnce(&mut Settings)) -> Self {
        let cluster = Cluster::start(&[("fsync", "off")]).await;
        let proxy = Proxy::start(cluster.socket()).await;
        let through = Database::external(cluster.connect_through(proxy.addr));
        let server = TestServer::start_on(Arc::new(through), |settings| {
            set(settings);
            // Migrations and LISTEN need a connection outside the pooler.
            let direct = settings.store.transaction_pooler;
            settings.store.direct = direct.then(|| cluster.database.connect.clone());
        });
        let server = server.await;
        Self {
            cluster,
            proxy,
            server,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_recovers_from_network_delay_cut_connections_and_packet_loss() {
    if skipped_behind_pooler(SKIP_REASON) {
        return;
    }
    let ProxiedServer {
        cluster,
        proxy,
        server,
    } = ProxiedServer::start(short_timeouts).await;
    let mut health = HealthWatch::start(&server).await;
    let spirit_id = server.spirit().await;
    let mut observer = cluster.database.connect().await;
    let load = Load::start(&server, &spirit_id).await;
    load.wait_for_creates(50).await;
    proxy.set(NetworkState::Slow(Duration::from_millis(30)));
    load.wait_for_creates(20).await;
    for state in [NetworkState::Cut, NetworkState::Stalled] {
        proxy.set(state);
        load.wait_for_refusals(CALLERS).await;
        health.wait_for(NotServing).await;
        proxy.set(NetworkState::Up);
        health.wait_for(Serving).await;
        load.wait_for_creates(50).await;
    }
    eventually("connections are within the settings' limits", async || {
        let count = connections(&mut observer).await;
        (count <= CONNECTIONS_MAX).then_some(())
    })
    .await;
    load.finish_and_verify(&mut observer).await;
    server.stop().await.unwrap();
}

/// Simulates a NAT gateway that loses its tables: open connections stop working without a reset, so the
/// server has to detect each dead connection by timeout.
async fn dead_connections_are_replaced(set: impl FnOnce(&mut Settings)) {
    let ProxiedServer {
        cluster,
        proxy,
        server,
    } = ProxiedServer::start(set).await;
    let mut health = HealthWatch::start(&server).await;
    let spirit_id = server.spirit().await;
    let load = Load::start(&server, &spirit_id).await;
    for _ in 0..2 {
        load.wait_for_creates(50).await;
        proxy.set(NetworkState::Blackholed);
        load.wait_for_refusals(CALLERS).await;
        health.wait_for(NotServing).await;
        proxy.set(NetworkState::Up);
        health.wait_for(Serving).await;
    }
    load.wait_for_creates(50).await;
    let peak = i64::try_from(proxy.max_open()).unwrap();
    assert!(peak <= CONNECTIONS_MAX, "{peak} connections");
    load.finish_and_verify(&mut cluster.database.connect().await)
        .await;
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_die_silently_under_load_are_replaced() {
    if skipped_behind_pooler(SKIP_REASON) {
        return;
    }
    dead_connections_are_replaced(short_timeouts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_die_silently_are_replaced_in_transaction_pooler_mode() {
    if skipped_behind_pooler(SKIP_REASON) {
        return;
    }
    dead_connections_are_replaced(|settings| {
        short_timeouts(settings);
        settings.store.transaction_pooler = true;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_that_died_silently_delay_the_next_call_by_seconds_at_most() {
    const IDLE_TRUST: Duration = Duration::from_secs(1);
    if skipped_behind_pooler(SKIP_REASON) {
        return;
    }
    let ProxiedServer {
        cluster,
        proxy,
        server,
    } = ProxiedServer::start(|_| {}).await;
    let spirit_id = server.spirit().await;
    let first = create(&mut server.events(), event(&spirit_id)).await;
    let reads = (0..8).map(|_| {
        let (mut events, request) = (server.events(), list(&spirit_id));
        async move { events.list_events(request).await.unwrap() }
    });
    join_all(reads).await;
    proxy.set(NetworkState::Blackholed);
    sleep(IDLE_TRUST).await; // idle longer than the pool trusts a connection
    proxy.set(NetworkState::Up);
    let started_at = Instant::now();
    let listed = server.events().list_events(list(&spirit_id)).await.unwrap();
    assert_eq!(listed.into_inner().events, [first]);
    assert_eq!(create(&mut server.events(), event(&spirit_id)).await.sequence, 2);
    let elapsed = started_at.elapsed();
    assert!(elapsed < Duration::from_secs(8), "{elapsed:?}");
    // The LISTEN connection is probed only after a period without notifications.
    for listening in [0, 1] {
        eventually("the LISTEN connection is dropped and replaced", async || {
            let up = Scrape::of(&server).await.count("events_listen_up");
            (up == listening).then_some(())
        })
        .await;
    }
    server.stop().await.unwrap();
    drop(cluster);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_statement_that_reaches_the_database_after_its_cancel_request_is_cancelled() {
    if skipped_behind_pooler(SKIP_REASON) {
        return;
    }
    let proxied = ProxiedServer::start(|settings| {
        settings.store.transaction_pooler = true;
        settings.store.acquire_timeout = NEVER;
        settings.store.statement_timeout = NEVER;
    })
    .await;
    let (server, proxy) = (&proxied.server, &proxied.proxy);
    let spirit_id = server.spirit().await;
    let mut connection = proxied.cluster.database.connect().await;
    let spirit_lock = lock_spirit(&mut connection, &spirit_id).await;
    let update = async || {
        let request = UpdateSpiritRequest {
            spirit_id: spirit_id.clone(),
            description: Some("cancelled".to_owned()),
            ..UpdateSpiritRequest::default()
        };
        server.spirits().update_spirit(request).await
    };
    proxy.set(NetworkState::SlowText("update spirits", Duration::from_secs(2)));
    tokio::select! {
        updated = update() => panic!("{updated:?}"),
        () = proxy.delays_a_chunk() => {}
    }
    metric_reaches(server, "events_pool_connections{state=\"in_use\"}", 0).await;
    spirit_lock.rollback().await.unwrap();
}
