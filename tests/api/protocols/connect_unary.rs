//! Unary calls over Connect, with JSON and Protobuf, POST and GET.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use elephantasm_events::grpc::pb;
use http::Method;
use prost::Message as _;
use serde_json::json;

use crate::support::builders::event;
use crate::support::harness::TestServer;
use crate::support::http::{EVENTS, Http, HttpClient, JSON, SPIRITS};
use crate::support::scrape::Scrape;

const PROTO: (&str, &str) = ("content-type", "application/proto");

#[tokio::test]
async fn json_and_protobuf_reach_the_same_handlers_over_both_versions_of_http() {
    let server = TestServer::start().await;
    for http in [Http::One, Http::Two] {
        let client = HttpClient::new(server.addr, http);
        let spirit_id = client.spirit().await;
        let request = json!({
            "spiritId": spirit_id, "eventType": "tool.result", "content": "ü", "importanceScore": 1,
            "meta": {"a": [1, 2.5, null, {"b": true}]}, "occurredAt": "2026-05-02T08:00:00.123456Z",
        });
        let reply = client.call(&format!("{EVENTS}/CreateEvent"), &request).await;
        let created = reply.json()["event"].clone();
        assert_eq!(created["sequence"], "1", "{http:?}: {reply:?}");
        assert_eq!(created["meta"], request["meta"]);
        assert_eq!(created["occurredAt"], request["occurredAt"]);
        assert_eq!(reply.headers["content-type"], "application/json");

        let message = event(&spirit_id).encode_to_vec();
        let reply = client
            .send(Method::POST, &format!("{EVENTS}/CreateEvent"), &[PROTO], message)
            .await;
        assert_eq!(reply.headers["content-type"], "application/proto");
        let created = pb::CreateEventResponse::decode(reply.body).unwrap();
        assert_eq!(created.event.unwrap().sequence, 2);
    }
}

#[tokio::test]
async fn errors_have_the_codes_and_details_of_grpc() {
    let server = TestServer::start().await;
    let client = HttpClient::new(server.addr, Http::One);
    let spirit_id = client.spirit().await;
    let unknown = "00000000-0000-7000-8000-000000000000";
    for (rpc, request, status, code, reason) in [
        (
            "GetEvent",
            json!({"eventId": unknown}),
            404,
            "not_found",
            "EVENT_NOT_FOUND",
        ),
        (
            "ListEvents",
            json!({"spiritId": "x"}),
            400,
            "invalid_argument",
            "INVALID_FIELD",
        ),
        (
            "ListEvents",
            json!({"spiritID": spirit_id}),
            400,
            "invalid_argument",
            "INVALID_FIELD",
        ),
        ("ListEvents", json!([]), 400, "invalid_argument", "UNDECODABLE"),
    ] {
        let reply = client.call(&format!("{EVENTS}/{rpc}"), &request).await;
        assert_eq!(reply.status, status, "{rpc}: {reply:?}");
        assert_eq!(reply.error(), (code.to_owned(), reason.to_owned()), "{rpc}");
        assert_eq!(reply.headers["content-type"], "application/json");
        assert!(!reply.headers.contains_key("grpc-status"), "{reply:?}");
    }
    let big =
        json!({"spiritId": spirit_id, "eventType": "t", "meta": {"a": {"id": 9_007_199_254_740_993_u64}}});
    let error = client.call(&format!("{EVENTS}/CreateEvent"), &big).await.json();
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .starts_with("meta.a.id must be between"),
        "{error}"
    );
}

#[tokio::test]
async fn a_get_reads_and_is_not_stored_by_caches() {
    let server = TestServer::start().await;
    let client = HttpClient::new(server.addr, Http::Two);
    let spirit_id = client.spirit().await;
    client.event(&spirit_id, "hello").await;
    let message = json!({"spiritId": spirit_id}).to_string();
    let encoded = BASE64_URL_SAFE_NO_PAD.encode(&message);
    let escaped: String = form_urlencoded::byte_serialize(message.as_bytes()).collect();
    for query in [
        format!("connect=v1&encoding=json&message={escaped}"),
        format!("connect=v1&encoding=json&base64=1&message={encoded}"),
    ] {
        let reply = client
            .send(Method::GET, &format!("{EVENTS}/ListEvents?{query}"), &[], "")
            .await;
        assert_eq!(reply.json()["events"][0]["content"], "hello", "{reply:?}");
        assert_eq!(reply.headers["cache-control"], "private, no-store");
    }
    for query in [
        "",
        "?encoding=json",
        "?encoding=xml&message=%7B%7D",
        "?encoding=json&base64=1&message=!",
    ] {
        let reply = client
            .send(Method::GET, &format!("{EVENTS}/ListEvents{query}"), &[], "")
            .await;
        assert_eq!(
            (reply.status.as_u16(), reply.error().1.as_str()),
            (400, "INVALID_FIELD"),
            "{query}"
        );
    }
    let query = "encoding=json&message=%7B%22name%22%3A%22Eve%22%7D";
    let reply = client
        .send(Method::GET, &format!("{SPIRITS}/CreateSpirit?{query}"), &[], "")
        .await;
    assert_eq!(
        (reply.status.as_u16(), &reply.headers["allow"]),
        (405, &"POST".parse().unwrap())
    );
}

#[tokio::test]
async fn headers_of_connect_are_checked_and_limit_the_call() {
    let server = TestServer::start().await;
    let client = HttpClient::new(server.addr, Http::One);
    let body = json!({"spiritId": client.spirit().await}).to_string();
    for (name, value, status, reason) in [
        ("connect-timeout-ms", "0", 504, "DEADLINE"),
        ("connect-timeout-ms", "soon", 400, "INVALID_FIELD"),
        ("connect-timeout-ms", "12345678901", 400, "INVALID_FIELD"),
        ("connect-protocol-version", "2", 400, "INVALID_FIELD"),
        ("content-encoding", "br", 501, "UNKNOWN_COMPRESSION"),
        ("x-consistency", "sometimes", 400, "INVALID_FIELD"),
    ] {
        let headers = [JSON, (name, value)];
        let reply = client
            .send(
                Method::POST,
                &format!("{EVENTS}/ListEvents"),
                &headers,
                body.clone(),
            )
            .await;
        assert_eq!(
            (reply.status.as_u16(), reply.error().1.as_str()),
            (status, reason),
            "{name}: {value}"
        );
    }
    let headers = [
        JSON,
        ("connect-protocol-version", "1"),
        ("connect-timeout-ms", "9999999999"),
        ("x-request-id", "mine"),
    ];
    let reply = client
        .send(Method::POST, &format!("{EVENTS}/ListEvents"), &headers, body)
        .await;
    assert_eq!(
        (reply.status.as_u16(), &reply.headers["x-request-id"]),
        (200, &"mine".parse().unwrap())
    );
}

#[tokio::test]
async fn calls_are_counted_with_the_status_that_they_end_with() {
    let server = TestServer::start().await;
    for http in [Http::One, Http::Two] {
        let client = HttpClient::new(server.addr, http);
        let spirit_id = client.spirit().await;
        client.event(&spirit_id, &"x".repeat(40_000)).await;
        client
            .call(&format!("{EVENTS}/GetEvent"), &json!({"eventId": "x"}))
            .await;
    }
    let metrics = Scrape::of(&server).await;
    for (method, code, count) in [
        ("CreateEvent", "OK", 2),
        ("CreateEvent", "CANCELLED", 0),
        ("GetEvent", "INVALID_ARGUMENT", 2),
    ] {
        let sample = format!(
            r#"grpc_server_handled_total{{grpc_code="{code}",grpc_method="{method}",grpc_service="elephantasm.events.v1.EventService",grpc_type="unary"}}"#
        );
        assert_eq!(metrics.count(&sample), count, "{method} {code}");
    }
}
