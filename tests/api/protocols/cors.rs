//! Cross-origin requests of web pages.

use http::Method;
use serde_json::json;

use crate::support::access::KeyedServer;
use crate::support::harness::{Settings, TestServer};
use crate::support::http::{EVENTS, Http, HttpClient, JSON, Reply, SPIRITS};

const APP: &str = "https://app.example.com";
const EVIL: &str = "https://evil.example";

fn allow(origin: &str) -> impl FnOnce(&mut Settings) {
    let origins = vec![origin.to_owned()];
    |settings| settings.server.origins.cors_origins = origins
}

async fn preflight(client: &HttpClient, origin: &str) -> Reply {
    let headers = [("origin", origin), ("access-control-request-method", "POST")];
    client
        .send(Method::OPTIONS, &format!("{EVENTS}/ListEvents"), &headers, "")
        .await
}

fn allowed_origin(reply: &Reply) -> Option<&str> {
    let header = reply.headers.get("access-control-allow-origin")?;
    Some(header.to_str().unwrap())
}

#[tokio::test]
async fn without_the_setting_no_preflight_is_answered() {
    let server = TestServer::start().await;
    let client = HttpClient::new(server.addr, Http::One);
    let reply = preflight(&client, APP).await;
    assert_eq!((reply.status.as_u16(), allowed_origin(&reply)), (403, None));
}

#[tokio::test]
async fn pages_of_the_named_origin_may_call_and_read_errors_without_credentials() {
    let server = TestServer::start_with(allow(APP)).await;
    let client = HttpClient::new(server.addr, Http::Two);
    let reply = preflight(&client, APP).await;
    assert_eq!((reply.status.as_u16(), allowed_origin(&reply)), (200, Some(APP)));
    assert_eq!(
        reply.headers["access-control-allow-headers"],
        "authorization,content-type,connect-protocol-version,connect-timeout-ms,connect-accept-encoding,\
         connect-content-encoding,grpc-timeout,x-grpc-web,x-user-agent,x-consistency,x-request-id"
    );
    let request = json!({"spiritId": "x"}).to_string();
    let headers = [JSON, ("origin", APP)];
    let reply = client
        .send(Method::POST, &format!("{EVENTS}/ListEvents"), &headers, request)
        .await;
    assert_eq!((reply.status.as_u16(), allowed_origin(&reply)), (400, Some(APP)));
    assert_eq!(
        reply.headers["access-control-expose-headers"],
        "grpc-status,grpc-message,grpc-status-details-bin,grpc-retry-pushback-ms,x-request-id"
    );
    assert!(!reply.headers.contains_key("access-control-allow-credentials"));
}

#[tokio::test]
async fn pages_of_other_origins_and_of_other_hosts_change_nothing() {
    let server = TestServer::start_with(allow(APP)).await;
    let client = HttpClient::new(server.addr, Http::One);
    let body = json!({"name": "Eve"}).to_string();
    for headers in [
        &[("origin", EVIL)][..],
        &[("origin", "null")],
        &[("sec-fetch-site", "cross-site")],
        &[("host", "evil.example:50051")],
        &[("host", "evil.example"), ("origin", "http://evil.example")],
    ] {
        for content_type in [
            "application/json",
            "application/proto",
            "application/grpc-web",
            "text/plain",
        ] {
            let headers = [&[("content-type", content_type)], headers].concat();
            let reply = client
                .send(
                    Method::POST,
                    &format!("{SPIRITS}/CreateSpirit"),
                    &headers,
                    body.clone(),
                )
                .await;
            let is_refused =
                reply.status == 403 || reply.headers.get("grpc-status").is_some_and(|code| code == "7");
            assert!(
                is_refused && allowed_origin(&reply).is_none(),
                "{headers:?}: {reply:?}"
            );
        }
    }
    let rebound = HttpClient::new(server.addr, Http::Two);
    let headers = [JSON, ("origin", EVIL)];
    let reply = rebound
        .send(Method::POST, &format!("{SPIRITS}/CreateSpirit"), &headers, body)
        .await;
    assert_eq!(
        (reply.status.as_u16(), reply.error().1.as_str()),
        (403, "ORIGIN_NOT_ALLOWED")
    );
    let count = client.call(&format!("{SPIRITS}/CountSpirits"), &json!({})).await;
    assert_eq!(count.json(), json!({}), "no spirit exists");
}

#[tokio::test]
async fn every_origin_is_allowed_only_while_there_are_keys() {
    let open = TestServer::start_with(allow("*")).await;
    let reply = preflight(&HttpClient::new(open.addr, Http::One), APP).await;
    assert_eq!(allowed_origin(&reply), None);
    let guarded = KeyedServer::start_with(allow("*")).await;
    let reply = preflight(&HttpClient::new(guarded.server.addr, Http::One), APP).await;
    assert_eq!(allowed_origin(&reply), Some(APP));
}
