//! Limits of each API key: calls per second and concurrent streams.

use std::time::Duration;

use elephantasm_events::domain::access::Role;
use elephantasm_events::grpc::pb::WatchEventsRequest;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::support::access::KeyedServer;
use crate::support::builders::refused;
use crate::support::harness::{TestServer, eventually};

#[tokio::test]
async fn an_api_key_over_its_call_rate_is_rejected_with_a_retry_delay() {
    let guarded =
        KeyedServer::start_with(|settings| settings.server.auth.key_limits.calls_per_second = Some(2)).await;
    let other = guarded
        .keys
        .create(Role::Reader, None, None)
        .await
        .caller(&guarded.server);
    let status = eventually("the call rate is exceeded", async || {
        guarded.admin.call().await.err()
    })
    .await;
    let status = refused(Err::<(), _>(status), Code::ResourceExhausted, "OVERLOADED");
    let retry_delay = status
        .get_details_retry_info()
        .expect("RetryInfo")
        .retry_delay
        .expect("retry_delay");
    assert!(retry_delay <= Duration::from_millis(500), "{retry_delay:?}");
    let pushback = status.metadata().get("grpc-retry-pushback-ms").unwrap();
    let pushback: u128 = pushback.to_str().unwrap().parse().unwrap();
    assert_eq!(pushback, retry_delay.as_nanos().div_ceil(1_000_000));
    other.call().await.expect("each key has a call rate of its own");
    tokio::time::sleep(retry_delay).await; // the delay that the error requests
    guarded.admin.call().await.unwrap();
}

#[tokio::test]
async fn an_api_key_at_its_stream_limit_is_rejected_until_a_stream_ends() {
    let guarded = KeyedServer::start_with(|settings| settings.server.auth.key_limits.streams = Some(2)).await;
    let spirit_id = guarded.admin.spirit("Ada").await;
    let other = guarded.caller(Role::Reader, &[&spirit_id]).await;
    let watch = || WatchEventsRequest {
        spirit_id: spirit_id.clone(),
        ..Default::default()
    };
    let mut open = Vec::new();
    for _ in 0..2 {
        open.push(guarded.admin.events().watch_events(watch()).await.unwrap());
    }
    let status = refused(
        guarded.admin.events().watch_events(watch()).await,
        Code::ResourceExhausted,
        "OVERLOADED",
    );
    assert!(status.get_details_retry_info().is_some());
    other
        .events()
        .watch_events(watch())
        .await
        .expect("each key has a stream limit of its own");
    guarded
        .admin
        .call()
        .await
        .expect("unary calls do not count as streams");
    drop(open.pop());
    eventually("another stream is admitted", async || {
        guarded.admin.events().watch_events(watch()).await.ok()
    })
    .await;
}

#[tokio::test]
async fn without_api_keys_all_callers_share_one_stream_limit() {
    let server = TestServer::start_with(|settings| settings.server.auth.key_limits.streams = Some(1)).await;
    let spirit_id = server.spirit().await;
    let watch = || WatchEventsRequest {
        spirit_id: spirit_id.clone(),
        ..Default::default()
    };
    let _open = server.events().watch_events(watch()).await.unwrap();
    refused(
        server.events().watch_events(watch()).await,
        Code::ResourceExhausted,
        "OVERLOADED",
    );
}
