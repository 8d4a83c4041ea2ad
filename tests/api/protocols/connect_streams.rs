//! Server streams over Connect.

use http::Method;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::support::harness::{PATIENCE, TestServer};
use crate::support::http::{EVENTS, Http, HttpClient, error_of, frames_of};
use crate::support::raw::framed;

const STREAM: (&str, &str) = ("content-type", "application/connect+json");
/// The flag of the last message of a stream.
const END: u8 = 2;

async fn call(client: &HttpClient, rpc: &str, headers: &[(&str, &str)], request: &Value) -> Vec<(u8, Value)> {
    let body = framed(request.to_string().as_bytes());
    let headers = [&[STREAM], headers].concat();
    let reply = client
        .send(Method::POST, &format!("{EVENTS}/{rpc}"), &headers, body)
        .await;
    assert_eq!(
        (reply.status.as_u16(), &reply.headers["content-type"]),
        (200, &STREAM.1.parse().unwrap())
    );
    let frames = frames_of(&reply.body).into_iter();
    frames
        .map(|(flags, message)| (flags, serde_json::from_slice(&message).unwrap()))
        .collect()
}

#[tokio::test]
async fn a_replay_ends_with_an_empty_status_over_both_versions_of_http() {
    let server = TestServer::start().await;
    for http in [Http::One, Http::Two] {
        let client = HttpClient::new(server.addr, http);
        let spirit_id = client.spirit().await;
        for content in ["one", "two"] {
            client.event(&spirit_id, content).await;
        }
        let request = json!({"spiritId": spirit_id, "sessionId": "s"});
        let items = call(&client, "StreamSessionEvents", &[], &request).await;
        let contents: Vec<_> = items
            .iter()
            .map(|(_, item)| item["event"]["content"].as_str())
            .collect();
        assert_eq!(contents, [Some("one"), Some("two"), None], "{items:?}");
        assert_eq!(items.last(), Some(&(END, json!({}))));
    }
}

#[tokio::test]
async fn a_watch_delivers_an_event_while_it_is_open() {
    let server = TestServer::start().await;
    let client = HttpClient::new(server.addr, Http::One);
    let spirit_id = client.spirit().await;
    let request = framed(
        json!({"spiritId": spirit_id, "afterSequence": "0"})
            .to_string()
            .as_bytes(),
    );
    let reply = client
        .open(Method::POST, &format!("{EVENTS}/WatchEvents"), &[STREAM], request)
        .await;
    let mut body = reply.into_body();
    client.event(&spirit_id, "live").await;
    let mut received = Vec::new();
    while !String::from_utf8_lossy(&received).contains("\"live\"") {
        let frame = timeout(PATIENCE, body.frame())
            .await
            .expect("an item in time")
            .unwrap();
        received.extend(frame.unwrap().into_data().unwrap());
    }
}

#[tokio::test]
async fn the_error_of_a_stream_is_its_last_message() {
    let server = TestServer::start().await;
    let client = HttpClient::new(server.addr, Http::Two);
    let spirit_id = client.spirit().await;
    let unknown = json!({"spiritId": "00000000-0000-7000-8000-000000000000", "afterSequence": 0});
    let watch = json!({"spiritId": spirit_id, "afterSequence": 0});
    for (request, headers, error) in [
        (&unknown, &[][..], ("not_found", "SPIRIT_NOT_FOUND")),
        (&json!({"spirit": 1}), &[], ("invalid_argument", "INVALID_FIELD")),
        (
            &watch,
            &[("connect-timeout-ms", "300")],
            ("deadline_exceeded", "DEADLINE"),
        ),
        (
            &watch,
            &[("connect-content-encoding", "zstd")],
            ("unimplemented", "UNKNOWN_COMPRESSION"),
        ),
    ] {
        let items = call(&client, "WatchEvents", headers, request).await;
        let (flags, last) = items.last().unwrap();
        let (code, reason) = error_of(&last["error"]);
        assert_eq!(
            (*flags, code.as_str(), reason.as_str()),
            (END, error.0, error.1),
            "{request}"
        );
    }
}

#[tokio::test]
async fn a_stream_of_requests_needs_grpc() {
    let server = TestServer::start().await;
    let client = HttpClient::new(server.addr, Http::One);
    let items = call(&client, "IngestEvents", &[], &json!({})).await;
    assert_eq!(error_of(&items[0].1["error"]).1, "NEEDS_GRPC");
    let reply = client.call(&format!("{EVENTS}/IngestEvents"), &json!({})).await;
    assert_eq!(
        (reply.status.as_u16(), reply.error().1.as_str()),
        (501, "NEEDS_GRPC")
    );
}
