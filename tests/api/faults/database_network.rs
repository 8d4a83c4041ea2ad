//! The network between the service and its database is slow, cut, or swallows what it should carry.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};
use tonic_health::pb::health_check_response::ServingStatus::{NotServing, Serving};

use crate::support::builders::{create, event, list};
use crate::support::cluster::Cluster;
use crate::support::connections::CONNECTIONS_MAX;
use crate::support::harness::{Database, Settings, TestServer, eventually, left_out_behind_pooler};
use crate::support::health_watch::HealthWatch;
use crate::support::load::{Load, connections, short_timeouts};
use crate::support::proxy::{NetworkState, Proxy};
use crate::support::scrape::Scrape;

const WHY_LEFT_OUT: &str = "the network here is between the service and a PostgreSQL of its own";

/// A PostgreSQL, the network before it, and a server behind that.
struct Far {
    own: Cluster,
    proxy: Proxy,
    server: TestServer,
}

impl Far {
    async fn start(set: impl FnOnce(&mut Settings)) -> Self {
        let own = Cluster::start(&[("fsync", "off")]).await;
        let proxy = Proxy::start(own.socket()).await;
        let through = Database::external(own.connect_through(proxy.addr));
        let server = TestServer::start_on(Arc::new(through), |settings| {
            set(settings);
            // Migrations and LISTEN need a session.
            let direct = settings.store.transaction_pooler;
            settings.store.direct = direct.then(|| own.database.connect.clone());
        });
        let server = server.await;
        Self { own, proxy, server }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_is_slow_cut_or_swallows_everything_is_survived() {
    if left_out_behind_pooler(WHY_LEFT_OUT) {
        return;
    }
    let Far { own, proxy, server } = Far::start(short_timeouts).await;
    let mut health = HealthWatch::start(&server).await;
    let spirit_id = server.spirit().await;
    let mut beside = own.database.connect().await;
    let load = Load::start(&server, &spirit_id).await;
    load.wait_for_creates(50).await;
    proxy.set(NetworkState::Slow(Duration::from_millis(30)));
    load.wait_for_creates(20).await;
    for weather in [NetworkState::Cut, NetworkState::Stalled] {
        proxy.set(weather);
        load.wait_for_refusals(20).await;
        health.wait_for(NotServing).await;
        proxy.set(NetworkState::Up);
        health.wait_for(Serving).await;
        load.wait_for_creates(50).await;
    }
    eventually("no more connections than the settings allow", async || {
        let count = connections(&mut beside).await;
        (count <= CONNECTIONS_MAX).then_some(())
    })
    .await;
    load.finish_and_verify(&mut beside).await;
    server.stop().await.unwrap();
}

/// As when a host between has lost its tables: no connection is reset, and each has to be given up.
async fn forgotten_connections_are_given_up(set: impl FnOnce(&mut Settings)) {
    let Far { own, proxy, server } = Far::start(set).await;
    let mut health = HealthWatch::start(&server).await;
    let spirit_id = server.spirit().await;
    let load = Load::start(&server, &spirit_id).await;
    for _ in 0..2 {
        load.wait_for_creates(50).await;
        proxy.set(NetworkState::Blackholed);
        load.wait_for_refusals(20).await;
        health.wait_for(NotServing).await;
        proxy.set(NetworkState::Up);
        health.wait_for(Serving).await;
    }
    load.wait_for_creates(50).await;
    let most = i64::try_from(proxy.max_open()).unwrap();
    assert!(most <= CONNECTIONS_MAX, "{most} connections");
    load.finish_and_verify(&mut own.database.connect().await).await;
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_the_network_forgets_under_load_are_given_up() {
    if left_out_behind_pooler(WHY_LEFT_OUT) {
        return;
    }
    forgotten_connections_are_given_up(short_timeouts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_are_those_with_a_transaction_for_each_statement() {
    if left_out_behind_pooler(WHY_LEFT_OUT) {
        return;
    }
    forgotten_connections_are_given_up(|settings| {
        short_timeouts(settings);
        settings.store.transaction_pooler = true;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_the_network_forgot_while_they_were_idle_cost_a_call_a_moment() {
    const TRUSTED_FOR: Duration = Duration::from_secs(1);
    if left_out_behind_pooler(WHY_LEFT_OUT) {
        return;
    }
    let Far { own, proxy, server } = Far::start(|_| {}).await;
    let spirit_id = server.spirit().await;
    let first = create(&mut server.events(), event(&spirit_id)).await;
    let reads = (0..8).map(|_| {
        let (mut events, request) = (server.events(), list(&spirit_id));
        async move { events.list_events(request).await.unwrap() }
    });
    join_all(reads).await;
    proxy.set(NetworkState::Blackholed);
    sleep(TRUSTED_FOR).await; // idle for longer than they are trusted
    proxy.set(NetworkState::Up);
    let since = Instant::now();
    let listed = server.events().list_events(list(&spirit_id)).await.unwrap();
    assert_eq!(listed.into_inner().events, [first]);
    assert_eq!(create(&mut server.events(), event(&spirit_id)).await.sequence, 2);
    let took = since.elapsed();
    assert!(took < Duration::from_secs(8), "{took:?}");
    // The connection that listens is asked only after some silence.
    for listening in [0, 1] {
        eventually("LISTEN is given up and made anew", async || {
            let now = Scrape::of(&server).await.count("events_listen_up");
            (now == listening).then_some(())
        })
        .await;
    }
    server.stop().await.unwrap();
    drop(own);
}
