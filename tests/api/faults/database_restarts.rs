//! A database that ends in order and is started again, under load and watched.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::sleep;
use tonic_health::pb::health_check_response::ServingStatus::{NotServing, Serving};

use crate::support::cluster::Cluster;
use crate::support::harness::{TestServer, eventually, left_out_behind_pooler};
use crate::support::health_watch::HealthWatch;
use crate::support::load::Load;
use crate::support::scrape::Scrape;

/// In which a call is refused by a database that is not there; mostly a busy machine.
const REFUSED_WITHIN: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn a_database_stopped_for_half_a_minute_is_missed_by_nobody_for_longer() {
    const HALF_A_MINUTE: Duration = Duration::from_secs(30);
    /// Those of connections that are made anew and of callers in mid-call.
    const TASKS_MORE: usize = 100;
    if left_out_behind_pooler("the database here is the test's own, with no pooler before it") {
        return;
    }
    let mut own = Cluster::start(&[]).await;
    let server = TestServer::start_on(Arc::clone(&own.database), |_| {}).await;
    let mut health = HealthWatch::start(&server).await;
    let spirit_id = server.spirit().await;
    let load = Load::start(&server, &spirit_id).await;
    load.wait_for_creates(50).await;
    let tasks = Handle::current().metrics().num_alive_tasks();
    own.stop().await;
    health.wait_for(NotServing).await;
    load.refusals();
    load.wait_for_refusals(50).await;
    sleep(HALF_A_MINUTE).await; // the subject itself
    load.wait_for_refusals(50).await;
    let slowest = load.refusals().slowest;
    assert!(slowest < REFUSED_WITHIN, "{slowest:?} to be refused");
    let now = Handle::current().metrics().num_alive_tasks();
    assert!(now < tasks + TASKS_MORE, "{tasks} tasks became {now}");
    own.run().await;
    health.wait_for(Serving).await;
    load.wait_for_creates(50).await;
    load.finish_and_verify_connections(&mut own.database.connect().await)
        .await;
    eventually("nothing of the refused calls is left in the queue", async || {
        let metrics = Scrape::of(&server).await;
        (metrics.count("events_ingest_queue_events{share=\"calls\"}") == 0).then_some(())
    })
    .await;
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_watches_health_sees_each_restart_of_the_database() {
    let mut own = Cluster::start(&[]).await;
    let server = TestServer::start_on(Arc::clone(&own.database), |_| {}).await;
    let mut health = HealthWatch::start(&server).await;
    let spirit_id = server.spirit().await;
    let load = Load::start(&server, &spirit_id).await;
    for in_order in [true, false] {
        load.wait_for_creates(50).await;
        if in_order {
            own.stop().await;
        } else {
            own.stop_immediate().await;
        }
        health.wait_for(NotServing).await;
        own.run().await;
        health.wait_for(Serving).await;
    }
    load.wait_for_creates(50).await;
    load.finish_and_verify_connections(&mut own.database.connect().await)
        .await;
    server.stop().await.unwrap();
}
