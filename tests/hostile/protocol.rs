//! Requests that are not gRPC, and requests of web pages: nothing of them is executed.

use elephantasm_events::grpc::pb::CreateSpiritRequest;
use http::Method;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;

use crate::support::{CREATE_SPIRIT, Host, Raw, details, framed};

const GRPC: &str = "application/grpc";

fn spirit() -> CreateSpiritRequest {
    CreateSpiritRequest {
        name: "Eve".to_owned(),
        ..CreateSpiritRequest::default()
    }
}

/// Sends requests that are almost calls, and checks that each is rejected.
async fn send_almost_calls(raw: &Raw, authorization: &str) {
    let body = || framed(&spirit().encode_to_vec());
    let with =
        |content_type: &'static str| vec![("authorization", authorization), ("content-type", content_type)];
    for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        for content_type in [GRPC, "text/plain", "application/json"] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let reply = raw
                .call(method.clone(), CREATE_SPIRIT, &with(content_type), body())
                .await;
            assert_eq!(reply.status, 405, "{method} {content_type}: {reply:?}");
            assert_eq!(reply.headers["allow"], "POST");
        }
    }
    for content_type in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/connect+json",
        "application/connect+proto",
        "application/grpc+json",
        "application/grpcish",
    ] {
        let reply = raw
            .call(Method::POST, CREATE_SPIRIT, &with(content_type), body())
            .await;
        assert_eq!(reply.status, 415, "{content_type}: {reply:?}");
        assert!(reply.text().contains(GRPC), "{reply:?}");
    }
    let untyped = [("authorization", authorization)];
    let reply = raw.call(Method::POST, CREATE_SPIRIT, &untyped, body()).await;
    assert_eq!(reply.status, 415, "no content type: {reply:?}");
    for (method, path) in [
        (Method::GET, "/no/such/path"),
        (Method::POST, "/a/b"),
        (Method::GET, "/favicon.ico"),
    ] {
        let reply = raw.call(method, path, &untyped, body()).await;
        assert_eq!(reply.status, 404, "{path}: {reply:?}");
    }
}

/// Calls a method that does not exist.
async fn call_unknown_methods(raw: &Raw, authorization: &str) {
    for path in [
        "/elephantasm.events.v1.EventService/DropEverything",
        "/elephantasm.events.v1.EventService/createevent",
        "/no.such.Service/Method",
        "/",
    ] {
        let status = raw
            .grpc(path, &[("authorization", authorization)], &spirit())
            .await
            .grpc_status();
        assert_eq!(status.code(), Code::Unimplemented, "{path}: {status:?}");
        assert_eq!(details(&status).0, "UNKNOWN_METHOD", "{path}");
        assert!(!status.message().is_empty());
    }
}

#[tokio::test]
async fn requests_that_are_not_grpc_are_rejected_and_store_nothing() {
    let host = Host::start(&[]).await;
    let raw = Raw::connect(host.addr()).await;
    send_almost_calls(&raw, "").await;
    call_unknown_methods(&raw, "").await;
    assert_eq!(host.spirit_count(None).await.unwrap(), 0);
    let reply = raw.grpc(CREATE_SPIRIT, &[], &spirit()).await;
    assert_eq!(reply.grpc_status().code(), Code::Ok);

    let key = host.key("admin").await;
    let authorization = format!("Bearer {key}");
    send_almost_calls(&raw, &authorization).await;
    call_unknown_methods(&raw, &authorization).await;
    call_unknown_methods(&raw, "Bearer unknown").await;
    assert_eq!(host.spirit_count(Some(&key)).await.unwrap(), 1);
    host.server.stop().await;
}

#[tokio::test]
async fn a_client_of_http_1_gets_a_readable_answer() {
    let host = Host::start(&[]).await;
    let post = |content_type| {
        format!(
            "POST {CREATE_SPIRIT} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
             content-type: {content_type}\r\ncontent-length: 5\r\n\r\nhello"
        )
    };
    for (request, status, text) in [
        (
            "GET /no/such/path HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".to_owned(),
            "404",
            "gRPC",
        ),
        (post("text/plain"), "415", "content types"),
        (post(GRPC), "505", "HTTP/2"),
        ("hello\r\n\r\n".to_owned(), "400", ""),
    ] {
        let mut connection = TcpStream::connect(host.addr()).await.unwrap();
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(
            head.contains(&format!("content-length: {}\r\n", body.len())),
            "{answer}"
        );
        assert!(body.contains(text), "{answer}");
    }
    // The start of a TLS handshake.
    let mut connection = TcpStream::connect(host.addr()).await.unwrap();
    connection.write_all(&[0x16, 3, 1]).await.unwrap();
    let mut answer = Vec::new();
    // The connection is closed or reset.
    drop(connection.read_to_end(&mut answer).await);
    assert!(answer.is_empty(), "{answer:?}");
    host.server.stop().await;
}

#[tokio::test]
async fn web_pages_of_other_origins_are_rejected_unless_a_setting_allows_them() {
    let host = Host::start(&[
        "--cors-origin",
        "https://app.example.com",
        "--allowed-host",
        "host.docker.internal",
    ])
    .await;
    let raw = Raw::connect(host.addr()).await;
    let own = format!("http://{}", host.addr());
    for (headers, is_allowed) in [
        (vec![("origin", "https://evil.example")], false),
        (vec![("origin", "null")], false),
        (vec![("sec-fetch-site", "cross-site")], false),
        (vec![("origin", own.as_str())], true),
        (vec![("origin", "https://app.example.com")], true),
        (vec![], true),
    ] {
        let status = raw.grpc(CREATE_SPIRIT, &headers, &spirit()).await.grpc_status();
        if is_allowed {
            assert_eq!(status.code(), Code::Ok, "{headers:?}: {status:?}");
        } else {
            assert_eq!(status.code(), Code::PermissionDenied, "{headers:?}: {status:?}");
            assert_eq!(details(&status).0, "ORIGIN_NOT_ALLOWED");
        }
    }
    let form = [("content-type", "text/plain")];
    for (authority, headers, code) in [
        ("evil.example", vec![], 403),
        ("localhost", vec![("origin", "https://evil.example")], 403),
        ("localhost", vec![], 415),
        ("host.docker.internal:50051", vec![], 415),
    ] {
        let headers = [&form[..], &headers].concat();
        let page = raw.with_authority(authority);
        let reply = page
            .call(
                Method::POST,
                CREATE_SPIRIT,
                &headers,
                framed(&spirit().encode_to_vec()),
            )
            .await;
        assert_eq!(reply.status, code, "{authority} {headers:?}: {reply:?}");
        let setting = ["--allowed-host", "--cors-origin"];
        assert_eq!(
            setting.iter().any(|name| reply.text().contains(name)),
            code == 403,
            "{reply:?}"
        );
    }
    let rebound = raw.with_authority("evil.example");
    let status = rebound.grpc(CREATE_SPIRIT, &[], &spirit()).await.grpc_status();
    assert_eq!(status.code(), Code::Ok, "no browser sends gRPC: {status:?}");
    assert_eq!(host.spirit_count(None).await.unwrap(), 4);

    let key = host.key("admin").await;
    let authorization = format!("Bearer {key}");
    let headers = [
        ("origin", "https://evil.example"),
        ("authorization", &authorization),
    ];
    let status = raw.grpc(CREATE_SPIRIT, &headers, &spirit()).await.grpc_status();
    assert_eq!(
        status.code(),
        Code::Ok,
        "with API keys the origin is not checked: {status:?}"
    );
    host.server.stop().await;
}
