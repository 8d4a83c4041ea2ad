//! Limits of HTTP/1.1 connections, and TLS.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use elephantasm_events::config::TlsFiles;
use elephantasm_events::server::Tls;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use prost::bytes::Bytes;
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::support::certificates::Authority;
use crate::support::harness::{PATIENCE, TestServer};
use crate::support::http::{EVENTS, Http, HttpClient, JSON, SPIRITS, send_over};
use crate::support::raw::framed;

/// Sends bytes over a new connection and reads until the server closes it.
async fn exchange(server: &TestServer, request: &str) -> String {
    let mut connection = TcpStream::connect(server.addr).await.unwrap();
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut reply = Vec::new();
    let read = timeout(PATIENCE, connection.read_to_end(&mut reply)).await;
    read.expect("the server closes the connection in time").unwrap();
    String::from_utf8(reply).unwrap()
}

#[tokio::test]
async fn idle_connections_and_slow_headers_are_closed_and_long_headers_are_refused() {
    let server = TestServer::start_with(|settings| {
        settings.server.connections.http1_idle = Duration::from_millis(200);
    })
    .await;
    assert_eq!(exchange(&server, "GET / HTT").await, "");
    let health = "POST /grpc.health.v1.Health/Check HTTP/1.1\r\nhost: localhost\r\n\
                  content-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
    let reply = exchange(&server, &health.repeat(2)).await;
    assert_eq!(reply.matches("{\"status\":\"SERVING\"}").count(), 2, "{reply}");
    let long = format!(
        "GET / HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n",
        "x".repeat(20_000)
    );
    let mut connection = TcpStream::connect(server.addr).await.unwrap();
    connection.write_all(long.as_bytes()).await.unwrap();
    let mut reply = [0; 12];
    connection.read_exact(&mut reply).await.unwrap();
    assert_eq!(&reply, b"HTTP/1.1 431");
}

#[tokio::test]
async fn connections_and_message_sizes_have_the_limits_of_http2() {
    let server = TestServer::start_with(|settings| settings.server.connections.connections_max = 2).await;
    let client = HttpClient::new(server.addr, Http::One);
    let name = "x".repeat(5 * 1024 * 1024);
    let reply = client
        .call(&format!("{SPIRITS}/CreateSpirit"), &json!({"name": name}))
        .await;
    assert_eq!(
        (reply.status.as_u16(), reply.error().1.as_str()),
        (429, "MESSAGE_TOO_LARGE")
    );

    // The harness holds the first connection.
    let mut second = TcpStream::connect(server.addr).await.unwrap();
    second.write_all(b"POST / HTTP/1.1\r\n").await.unwrap();
    let mut third = TcpStream::connect(server.addr).await.unwrap();
    let closed = timeout(PATIENCE, third.read_u8())
        .await
        .expect("the third is closed at once");
    assert!(closed.is_err());
}

#[tokio::test]
async fn a_refused_call_is_answered_while_its_request_is_still_being_sent() {
    let server = TestServer::start().await;
    let mut connection = TcpStream::connect(server.addr).await.unwrap();
    let head = format!(
        "POST {EVENTS}/IngestEvents HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: 1000000\r\n\r\n"
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    let mut start = [0; 12];
    connection.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 501");
    connection.write_all(&vec![b' '; 1_000_000]).await.unwrap();
    let health = "POST /grpc.health.v1.Health/Check HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
                  content-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
    connection.write_all(health.as_bytes()).await.unwrap();
    let mut rest = String::new();
    connection.read_to_string(&mut rest).await.unwrap();
    assert!(
        rest.contains("NEEDS_GRPC") && rest.ends_with("{\"status\":\"SERVING\"}"),
        "{rest}"
    );
}

#[tokio::test]
async fn a_server_that_drains_finishes_calls_and_closes_idle_connections() {
    let server = TestServer::start().await;
    let client = HttpClient::new(server.addr, Http::One);
    let spirit_id = client.spirit().await;
    let mut idle = TcpStream::connect(server.addr).await.unwrap();
    idle.write_all(b"G").await.unwrap();
    let request = json!({"spiritId": spirit_id, "afterSequence": 0}).to_string();
    let body = framed(request.as_bytes());
    let headers = [("content-type", "application/connect+json")];
    let watch = client
        .open(Method::POST, &format!("{EVENTS}/WatchEvents"), &headers, body)
        .await;
    server.stop().await.unwrap();
    let rest = watch.into_body().collect().await.unwrap().to_bytes();
    assert!(
        String::from_utf8_lossy(&rest).contains("SHUTTING_DOWN"),
        "{rest:?}"
    );
    assert!(idle.read_u8().await.is_err());
}

#[tokio::test]
async fn tls_negotiates_both_versions_of_http() {
    let authority = Authority::new("authority");
    let pair = authority.issue();
    let dir = TempDir::new().unwrap();
    let [cert, key] = ["cert", "key"].map(|name| dir.path().join(name));
    fs::write(&cert, &pair.cert).unwrap();
    fs::write(&key, &pair.key).unwrap();
    let tls = Tls::open(TlsFiles {
        cert,
        key,
        client_ca: None,
    })
    .await
    .unwrap();
    let server = TestServer::start_with(|settings| settings.server.tls = Some(tls)).await;
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap())
        .unwrap();
    for (http, alpn) in [(Http::One, "http/1.1"), (Http::Two, "h2")] {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let mut config = config
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.into()];
        let socket = TcpStream::connect(server.addr).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let socket = TlsConnector::from(Arc::new(config))
            .connect(name, socket)
            .await
            .unwrap();
        assert_eq!(socket.get_ref().1.alpn_protocol(), Some(alpn.as_bytes()));
        let request = Request::post(format!("https://localhost{SPIRITS}/CountSpirits"))
            .header("host", "localhost")
            .header(JSON.0, JSON.1)
            .body(Full::new(Bytes::from_static(b"{}")))
            .unwrap();
        assert_eq!(send_over(socket, http, request).await.status(), 200);
    }
}
