//! Streams that need no API key are bounded, on each connection and on all together.

use std::net::SocketAddr;

use elephantasm_events::config::Reflection;
use futures_util::future::try_join_all;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;

use crate::support::builders::{create, event, refused};
use crate::support::harness::{TestServer, connect, eventually};

const CONNECTION_STREAMS_MAX: usize = 8;
/// Streams of all connections beside the first one of each.
const FURTHER_STREAMS_MAX: usize = 1_000;

type Watch = Streaming<HealthCheckResponse>;

async fn watch(channel: &Channel) -> Result<Watch, Status> {
    let mut health = HealthClient::new(channel.clone());
    let watch = health.watch(HealthCheckRequest::default()).await?;
    Ok(watch.into_inner())
}

async fn open_all(channel: &Channel, count: usize) -> Vec<Watch> {
    try_join_all((0..count).map(|_| watch(channel))).await.unwrap()
}

/// Asserts that the connection may open no further stream, neither of health nor of reflection.
async fn assert_full(channel: &Channel) {
    refused(watch(channel).await, Code::ResourceExhausted, "OVERLOADED");
    let mut reflection = ServerReflectionClient::new(channel.clone());
    let reflected = reflection
        .server_reflection_info(futures_util::stream::pending())
        .await;
    refused(reflected, Code::ResourceExhausted, "OVERLOADED");
}

async fn full_connection(addr: SocketAddr) -> (Channel, Vec<Watch>) {
    let channel = connect(addr).await;
    let watches = open_all(&channel, CONNECTION_STREAMS_MAX).await;
    (channel, watches)
}

#[tokio::test]
async fn a_connection_may_hold_eight_streams_that_need_no_key_and_any_other_call() {
    let server = TestServer::start_with(|settings| settings.server.auth.reflection = Reflection::Open).await;
    let (channel, mut watches) = full_connection(server.addr).await;
    assert_full(&channel).await;
    let mut health = HealthClient::new(channel.clone());
    health.check(HealthCheckRequest::default()).await.unwrap();
    let spirit_id = server.spirit().await;
    create(&mut server.events(), event(&spirit_id)).await;
    watch(&connect(server.addr).await).await.unwrap();

    watches.pop();
    eventually("an ended watch makes room for another", async || {
        watches.push(watch(&channel).await.ok()?);
        Some(())
    })
    .await;
    assert_full(&channel).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_connection_may_watch_the_health_once_all_further_streams_are_taken() {
    let server = TestServer::start().await;
    let mut open = Vec::new();
    for _ in 0..FURTHER_STREAMS_MAX / (CONNECTION_STREAMS_MAX - 1) {
        open.push(full_connection(server.addr).await);
    }
    let channel = connect(server.addr).await;
    let rest = FURTHER_STREAMS_MAX % (CONNECTION_STREAMS_MAX - 1);
    let _watches = open_all(&channel, 1 + rest).await;
    assert_full(&channel).await;
    let other = connect(server.addr).await;
    let _watch = watch(&other).await.unwrap();
    assert_full(&other).await;
    drop(open);
    eventually("ended connections make room for others", async || {
        watch(&other).await.ok()
    })
    .await;
}
