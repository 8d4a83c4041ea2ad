//! Requests that are almost calls over HTTP/1.1: none of them is executed.

use http::Method;
use serde_json::json;

use crate::support::harness::TestServer;
use crate::support::http::{EVENTS, Http, HttpClient, SPIRITS};

#[tokio::test]
async fn other_methods_content_types_and_paths_are_rejected_before_anything_runs() {
    let server = TestServer::start().await;
    let client = HttpClient::new(server.addr, Http::One);
    let (create, watch) = (format!("{SPIRITS}/CreateSpirit"), format!("{EVENTS}/WatchEvents"));
    let body = json!({"name": "Eve"}).to_string();
    for (method, path, content_type, status) in [
        ("GET", create.as_str(), "application/json", 405),
        ("PUT", &create, "application/json", 405),
        ("OPTIONS", &create, "application/json", 405),
        ("GET", &watch, "application/connect+json", 405),
        ("POST", &create, "text/plain", 415),
        ("POST", &create, "application/x-www-form-urlencoded", 415),
        ("POST", &create, "application/json; charset=latin1", 415),
        ("POST", &create, "application/jsonp", 415),
        ("POST", &create, "application/connect+json", 415),
        ("POST", &watch, "application/json", 415),
        ("POST", &create, "application/grpc", 505),
        (
            "POST",
            "/elephantasm.events.v1.SpiritService/Drop",
            "application/json",
            404,
        ),
        ("POST", "/", "application/json", 404),
    ] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let reply = client
            .send(
                method.clone(),
                path,
                &[("content-type", content_type)],
                body.clone(),
            )
            .await;
        assert_eq!(reply.status, status, "{method} {path} {content_type}: {reply:?}");
        assert_eq!(
            reply.headers.contains_key("accept-post"),
            status == 415,
            "{reply:?}"
        );
    }
    let count = client.call(&format!("{SPIRITS}/CountSpirits"), &json!({})).await;
    assert_eq!(count.json(), json!({}), "no spirit exists");
}
