//! gzip of requests and replies, over gRPC and Connect.

use std::io::{Read as _, Write as _};

use elephantasm_events::grpc::pb;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use h2::RecvStream;
use http::Method;
use prost::Message as _;
use serde_json::json;
use tonic::Code;

use crate::support::builders::{event, list, refused};
use crate::support::harness::TestServer;
use crate::support::http::{EVENTS, Http, HttpClient, JSON, frames_of};
use crate::support::raw::{RawClient, encoded, read_to_end};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut plain).unwrap();
    plain
}

/// Frames a compressed message as gRPC does.
fn compressed(message: &[u8]) -> Vec<u8> {
    let message = gzip(message);
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[1], &length[..], &message].concat()
}

async fn read_body(body: &mut RecvStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        bytes.extend(data);
    }
    bytes
}

#[tokio::test]
async fn grpc_requests_may_be_compressed_and_long_replies_to_callers_that_compress_are() {
    let server = TestServer::start().await;
    let raw = RawClient::connect(server.addr).await;
    let spirit_id = server.spirit().await;
    let mut request = event(&spirit_id);
    request.content = Some("hello ".repeat(10_000));
    let body = compressed(&request.encode_to_vec());
    let headers = [("grpc-encoding", "gzip")];
    let (head, mut reply) = raw.open(&format!("{EVENTS}/CreateEvent"), &headers, body).await;
    assert!(
        !head.contains_key("grpc-encoding"),
        "the caller accepts no compression: {head:?}"
    );
    assert_eq!(frames_of(&read_body(&mut reply).await)[0].0, 0);

    let accepts = ("grpc-accept-encoding", "identity, deflate, gzip");
    let path = format!("{EVENTS}/ListEvents");
    let (head, _) = raw.open(&path, &[accepts], encoded(&list(&spirit_id))).await;
    assert!(
        !head.contains_key("grpc-encoding"),
        "the caller does not compress: {head:?}"
    );

    let accepts = [accepts, ("grpc-encoding", "gzip")];
    let (head, mut reply) = raw.open(&path, &accepts, encoded(&list(&spirit_id))).await;
    assert_eq!(head["grpc-encoding"], "gzip");
    let (flags, message) = frames_of(&read_body(&mut reply).await).remove(0);
    assert!(flags == 1 && message.len() < 5_000, "{flags} {}", message.len());
    let page = pb::ListEventsResponse::decode(&gunzip(&message)[..]).unwrap();
    assert_eq!(page.events[0].content, request.content);

    let short = encoded(&pb::CountEventsRequest {
        spirit_id,
        ..Default::default()
    });
    let (_, mut reply) = raw.open(&format!("{EVENTS}/CountEvents"), &accepts, short).await;
    assert_eq!(
        frames_of(&read_body(&mut reply).await)[0].0,
        0,
        "short replies are not compressed"
    );
}

#[tokio::test]
async fn a_bomb_ends_at_the_limit_and_unknown_compression_is_refused() {
    let server = TestServer::start().await;
    let raw = RawClient::connect(server.addr).await;
    let path = format!("{EVENTS}/CreateEvent");
    let gzip_header = [("grpc-encoding", "gzip")];
    let bomb = compressed(&vec![0; 64 * 1024 * 1024]);
    refused(
        raw.call(&path, &gzip_header, bomb.clone()).await.error::<()>(),
        Code::ResourceExhausted,
        "MESSAGE_TOO_LARGE",
    );
    let garbage = [&[1, 0, 0, 0, 4][..], b"gzip"].concat();
    refused(
        raw.call(&path, &gzip_header, garbage).await.error::<()>(),
        Code::InvalidArgument,
        "UNDECODABLE",
    );
    let unmarked = raw.call(&path, &[], compressed(b"")).await;
    refused(unmarked.error::<()>(), Code::InvalidArgument, "UNDECODABLE");
    let (head, body) = raw
        .open(&path, &[("grpc-encoding", "br")], encoded(&event("x")))
        .await;
    assert_eq!(head["grpc-accept-encoding"], "gzip");
    refused(
        read_to_end(head, body).await.error::<()>(),
        Code::Unimplemented,
        "UNKNOWN_COMPRESSION",
    );

    let client = HttpClient::new(server.addr, Http::One);
    let bomb = gzip(&vec![b' '; 64 * 1024 * 1024]);
    let reply = client
        .send(Method::POST, &path, &[JSON, ("content-encoding", "gzip")], bomb)
        .await;
    assert_eq!(
        (reply.status.as_u16(), reply.error().1.as_str()),
        (429, "MESSAGE_TOO_LARGE")
    );
}

#[tokio::test]
async fn connect_compresses_unary_bodies_as_http_does() {
    let server = TestServer::start().await;
    let client = HttpClient::new(server.addr, Http::One);
    let spirit_id = client.spirit().await;
    let request = json!({"spiritId": spirit_id, "eventType": "t", "content": "hello ".repeat(10_000)});
    let headers = [
        JSON,
        ("content-encoding", "gzip"),
        ("accept-encoding", "gzip, br"),
    ];
    let body = gzip(request.to_string().as_bytes());
    let reply = client
        .send(Method::POST, &format!("{EVENTS}/CreateEvent"), &headers, body)
        .await;
    assert_eq!(reply.headers["content-encoding"], "gzip", "{reply:?}");
    assert_eq!(
        reply.headers["content-length"].to_str().unwrap(),
        reply.body.len().to_string()
    );
    let created: serde_json::Value = serde_json::from_slice(&gunzip(&reply.body)).unwrap();
    assert_eq!(created["event"]["content"], request["content"]);
}
