//! Restarts of the database under load, as seen by callers and by health watchers.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::sleep;
use tonic_health::pb::health_check_response::ServingStatus::{NotServing, Serving};

use crate::support::cluster::Cluster;
use crate::support::harness::{TestServer, eventually, skipped_behind_pooler};
use crate::support::health_watch::HealthWatch;
use crate::support::load::{Load, slowness};
use crate::support::scrape::Scrape;

/// Longest time until a call fails while the database is down, on an idle machine.
const FAILURE_TIME_MAX: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn calls_fail_fast_during_a_database_outage_and_succeed_right_after_it() {
    const OUTAGE: Duration = Duration::from_secs(30);
    /// Additional tasks of reconnecting connections and of callers in mid-call.
    const EXTRA_TASKS_MAX: usize = 100;
    if skipped_behind_pooler("the database here is the test's own, with no pooler before it") {
        return;
    }
    let mut cluster = Cluster::start(&[]).await;
    let server = TestServer::start_on(Arc::clone(&cluster.database), |_| {}).await;
    let mut health = HealthWatch::start(&server).await;
    let spirit_id = server.spirit().await;
    let load = Load::start(&server, &spirit_id).await;
    load.wait_for_creates(50).await;
    let tasks_before = Handle::current().metrics().num_alive_tasks();
    cluster.stop().await;
    health.wait_for(NotServing).await;
    load.refusals();
    load.wait_for_refusals(50).await;
    sleep(OUTAGE).await; // the duration of the outage is what the test is about
    load.wait_for_refusals(50).await;
    let slowest = load.refusals().slowest;
    assert!(
        slowest < FAILURE_TIME_MAX.mul_f64(slowness()),
        "{slowest:?} until a call failed"
    );
    let tasks_during_outage = Handle::current().metrics().num_alive_tasks();
    assert!(
        tasks_during_outage < tasks_before + EXTRA_TASKS_MAX,
        "{tasks_before} tasks became {tasks_during_outage}"
    );
    cluster.run().await;
    health.wait_for(Serving).await;
    load.wait_for_creates(50).await;
    load.finish_and_verify_connections(&mut cluster.database.connect().await)
        .await;
    eventually("failed calls leave nothing in the queue", async || {
        let metrics = Scrape::of(&server).await;
        (metrics.count("events_ingest_queue_events{share=\"calls\"}") == 0).then_some(())
    })
    .await;
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_health_watch_reports_each_restart_of_the_database() {
    let mut cluster = Cluster::start(&[]).await;
    let server = TestServer::start_on(Arc::clone(&cluster.database), |_| {}).await;
    let mut health = HealthWatch::start(&server).await;
    let spirit_id = server.spirit().await;
    let load = Load::start(&server, &spirit_id).await;
    for gracefully in [true, false] {
        load.wait_for_creates(50).await;
        if gracefully {
            cluster.stop().await;
        } else {
            cluster.stop_immediate().await;
        }
        health.wait_for(NotServing).await;
        cluster.run().await;
        health.wait_for(Serving).await;
    }
    load.wait_for_creates(50).await;
    load.finish_and_verify_connections(&mut cluster.database.connect().await)
        .await;
    server.stop().await.unwrap();
}
