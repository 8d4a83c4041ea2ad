//! Clients that mean ill or are broken cost themselves something, and nobody else.

use std::net::SocketAddr;
use std::time::Duration;

use elephantasm_events::grpc::pb::ListSpiritsRequest;
use elephantasm_events::grpc::pb::spirit_service_client::SpiritServiceClient;
use elephantasm_events::server::ConnectionLimits;
use h2::Reason;
use h2::client::{self, SendRequest};
use http::Request;
use prost::bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::transport::Endpoint;
use tonic::{Code, Status};

use crate::streams::stalled_streams::all_idle;
use crate::support::builders::{create, event, list};
use crate::support::harness::{PATIENCE, Settings, TestServer, connect, eventually};
use crate::support::raw::{RawClient, encoded, framed};

const CREATE: &str = "/elephantasm.events.v1.EventService/CreateEvent";
const LIST: &str = "/elephantasm.events.v1.EventService/ListEvents";
const STREAM: &str = "/elephantasm.events.v1.EventService/StreamSessionEvents";

fn limits(set: impl FnOnce(&mut ConnectionLimits)) -> impl FnOnce(&mut Settings) {
    |settings| set(&mut settings.server.connections)
}

async fn ends(mut socket: TcpStream, what: &str) {
    let read_to_end = async {
        let mut bytes = Vec::new();
        // It may also be reset.
        drop(socket.read_to_end(&mut bytes).await);
    };
    timeout(PATIENCE, read_to_end).await.expect(what);
}

/// A call on a connection of its own.
async fn call(addr: SocketAddr) -> Result<(), Status> {
    let endpoint = Endpoint::from_shared(format!("http://{addr}")).unwrap();
    let mut spirits = SpiritServiceClient::new(endpoint.connect_lazy());
    spirits
        .list_spirits(ListSpiritsRequest::default())
        .await
        .map(drop)
}

#[tokio::test]
async fn the_oldest_silent_connection_makes_room_for_the_next() {
    const SILENT: usize = 300;
    let server = TestServer::start_with(limits(|limits| {
        limits.connections_max = 200;
        limits.handshake = 100 * PATIENCE;
    }))
    .await;
    let mut silent = Vec::new();
    for n in 0..SILENT {
        silent.push(TcpStream::connect(server.addr).await.unwrap());
        if n % 10 == 0 {
            call(server.addr).await.unwrap();
        }
    }
    // At most half of all connections are silent ones.
    for socket in silent.drain(..SILENT - 100) {
        ends(socket, "the oldest ends").await;
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_and_room_comes_back() {
    let server = TestServer::start_with(limits(|limits| limits.connections_max = 8)).await;
    let spirit_id = server.spirit().await; // on the first one
    let mut others = Vec::new();
    for _ in 0..7 {
        let channel = connect(server.addr).await;
        let mut spirits = SpiritServiceClient::new(channel.clone());
        spirits.list_spirits(ListSpiritsRequest::default()).await.unwrap();
        others.push(channel);
    }
    for _ in 0..5 {
        ends(TcpStream::connect(server.addr).await.unwrap(), "one too many").await;
        assert!(call(server.addr).await.is_err());
    }
    create(&mut server.events(), event(&spirit_id)).await;
    drop(others);
    eventually("room for others", async || call(server.addr).await.ok()).await;
}

/// Half a header block: nothing else may come between, not even the answer to a ping.
#[tokio::test]
async fn who_stops_in_the_middle_of_a_header_is_sent_away() {
    let server =
        TestServer::start_with(limits(|limits| limits.ping_interval = Duration::from_millis(300))).await;
    let mut socket = TcpStream::connect(server.addr).await.unwrap();
    socket
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    // Type 1, neither END_STREAM nor END_HEADERS, stream 1: `:method: POST`, and no more.
    let half_a_header = [0, 0, 1, 1, 0, 0, 0, 0, 1, 0x83];
    socket
        .write_all(&[&settings[..], &half_a_header].concat())
        .await
        .unwrap();
    ends(socket, "the connection ends").await;
}

#[tokio::test]
async fn headers_of_many_bytes_are_refused() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut events = server.events();
    for (bytes, accepted) in [(10_000, true), (20_000, false), (200_000, false)] {
        let mut request = tonic::Request::new(list(&spirit_id));
        let value = "x".repeat(bytes).parse().unwrap();
        request.metadata_mut().insert("x-long", value);
        let answer = timeout(PATIENCE, events.list_events(request)).await;
        let answer = answer.expect("an answer comes");
        assert_eq!(answer.is_ok(), accepted, "{bytes} bytes: {answer:?}");
        create(&mut events, event(&spirit_id)).await;
    }
}

#[tokio::test]
async fn compressed_messages_are_refused_before_they_are_unpacked() {
    let server = TestServer::start().await;
    let raw = RawClient::connect(server.addr).await;
    // As a bomb begins: what follows the frame's head is never looked at.
    let bomb = [&[1], &framed(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3])[1..]].concat();
    for path in [CREATE, LIST, STREAM] {
        for encoding in ["gzip", "deflate", "zstd"] {
            let end = raw.call(path, &[("grpc-encoding", encoding)], bomb.clone()).await;
            let status = end.error::<()>().unwrap_err();
            assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
            assert!(status.message().contains(encoding), "{status:?}");
        }
    }
}

/// tests/cli/cancelled_calls.rs makes more, of every kind, at a process of its own.
const CANCELLED: usize = 20_000;
const CANCELLING: usize = 4;

/// Opens calls and cancels each, before or after the server has taken it up.
async fn cancel_many(addr: SocketAddr, spirit_id: String) {
    let (mut requests, mut connection) = connect_raw(addr).await;
    let body = Bytes::from(encoded(&list(&spirit_id)));
    for call in 0..CANCELLED / CANCELLING {
        if connection.is_finished() {
            // The server may close one that cancels more than it takes up.
            (requests, connection) = connect_raw(addr).await;
        }
        let Ok(mut ready) = requests.clone().ready().await else {
            continue;
        };
        let request = Request::post(format!("http://{addr}{LIST}"))
            .header("te", "trailers")
            .header("content-type", "application/grpc");
        let Ok((response, mut sending)) = ready.send_request(request.body(()).unwrap(), false) else {
            continue;
        };
        drop(sending.send_data(body.clone(), true));
        if call % 8 == 0 {
            drop(timeout(Duration::from_micros(500), response).await);
        }
        sending.send_reset(Reason::CANCEL);
    }
}

async fn connect_raw(addr: SocketAddr) -> (SendRequest<Bytes>, tokio::task::JoinHandle<()>) {
    let socket = TcpStream::connect(addr).await.unwrap();
    let (requests, connection) = client::handshake(socket).await.unwrap();
    (requests, tokio::spawn(async { drop(connection.await) }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_cancelled_calls_leaves_no_statement_behind_and_shuts_nobody_out() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    create(&mut server.events(), event(&spirit_id)).await;
    let mut cancelling = JoinSet::new();
    for _ in 0..CANCELLING {
        cancelling.spawn(cancel_many(server.addr, spirit_id.clone()));
    }
    // Meanwhile others are served.
    let mut events = server.events();
    while !cancelling.is_empty() {
        let listed = timeout(PATIENCE, events.list_events(list(&spirit_id))).await;
        listed.expect("others are served").unwrap();
        while let Some(ended) = cancelling.try_join_next() {
            ended.unwrap();
        }
    }
    all_idle(&server).await;
    create(&mut events, event(&spirit_id)).await;
}
