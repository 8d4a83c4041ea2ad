//! What each key may ask of a server: calls in a second, streams at the same time.

use std::time::Duration;

use elephantasm_events::domain::access::Role;
use elephantasm_events::grpc::pb::WatchEventsRequest;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::support::access::KeyedServer;
use crate::support::builders::refused;
use crate::support::harness::{TestServer, eventually};

#[tokio::test]
async fn a_key_over_its_calls_is_told_when_to_come_again() {
    let guarded =
        KeyedServer::start_with(|settings| settings.server.auth.key_limits.calls_per_second = Some(2)).await;
    let other = guarded
        .keys
        .create(Role::Reader, None, None)
        .await
        .caller(&guarded.server);
    let status = eventually("too many calls", async || guarded.admin.call().await.err()).await;
    let status = refused(Err::<(), _>(status), Code::ResourceExhausted, "OVERLOADED");
    let pause = status
        .get_details_retry_info()
        .expect("RetryInfo")
        .retry_delay
        .expect("a pause");
    assert!(pause <= Duration::from_millis(500), "{pause:?}");
    other.call().await.expect("each key has its own calls");
    tokio::time::sleep(pause).await; // what the error says
    guarded.admin.call().await.unwrap();
}

#[tokio::test]
async fn a_key_over_its_streams_is_refused_until_one_ends() {
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
        .expect("each key has its own streams");
    guarded.admin.call().await.expect("calls are no streams");
    drop(open.pop());
    eventually("there is a place again", async || {
        guarded.admin.events().watch_events(watch()).await.ok()
    })
    .await;
}

#[tokio::test]
async fn without_keys_the_limits_are_everybodys_together() {
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
