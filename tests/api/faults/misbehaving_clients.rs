//! Malicious and broken clients do not affect other clients.

use std::net::SocketAddr;
use std::time::Duration;

use elephantasm_events::config::ConnectionLimits;
use elephantasm_events::grpc::pb::ListSpiritsRequest;
use elephantasm_events::grpc::pb::spirit_service_client::SpiritServiceClient;
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

/// Waits until the server has closed the connection.
async fn assert_closed(mut socket: TcpStream, what: &str) {
    let read_to_end = async {
        let mut bytes = Vec::new();
        // A reset also closes the connection.
        drop(socket.read_to_end(&mut bytes).await);
    };
    timeout(PATIENCE, read_to_end).await.expect(what);
}

/// Makes a call on a new connection.
async fn call(addr: SocketAddr) -> Result<(), Status> {
    let endpoint = Endpoint::from_shared(format!("http://{addr}")).unwrap();
    let mut spirits = SpiritServiceClient::new(endpoint.connect_lazy());
    spirits
        .list_spirits(ListSpiritsRequest::default())
        .await
        .map(drop)
}

#[tokio::test]
async fn the_oldest_silent_connections_are_closed_in_favour_of_new_ones() {
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
    // At most half of the connections may be silent.
    for socket in silent.drain(..SILENT - 100) {
        assert_closed(socket, "the oldest silent connections are closed").await;
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_and_accepted_again_once_others_end() {
    let server = TestServer::start_with(limits(|limits| limits.connections_max = 8)).await;
    let spirit_id = server.spirit().await; // opens the first connection
    let mut others = Vec::new();
    for _ in 0..7 {
        let channel = connect(server.addr).await;
        let mut spirits = SpiritServiceClient::new(channel.clone());
        spirits.list_spirits(ListSpiritsRequest::default()).await.unwrap();
        others.push(channel);
    }
    for _ in 0..5 {
        let excess = TcpStream::connect(server.addr).await.unwrap();
        assert_closed(excess, "a connection beyond the limit is closed").await;
        assert!(call(server.addr).await.is_err());
    }
    create(&mut server.events(), event(&spirit_id)).await;
    drop(others);
    eventually("a new connection is served", async || {
        call(server.addr).await.ok()
    })
    .await;
}

/// Within a header block no other frame may be sent, not even the answer to a ping, so that the keepalive ping of
/// the server times out.
#[tokio::test]
async fn a_connection_that_stops_within_a_header_block_is_closed() {
    let server =
        TestServer::start_with(limits(|limits| limits.ping_interval = Duration::from_millis(300))).await;
    let mut socket = TcpStream::connect(server.addr).await.unwrap();
    socket
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    // A HEADERS frame of stream 1 without END_STREAM and END_HEADERS that holds `:method: POST` only.
    let half_a_header = [0, 0, 1, 1, 0, 0, 0, 0, 1, 0x83];
    socket
        .write_all(&[&settings[..], &half_a_header].concat())
        .await
        .unwrap();
    assert_closed(socket, "the connection is closed").await;
}

#[tokio::test]
async fn request_headers_beyond_the_size_limit_are_refused() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut events = server.events();
    for (bytes, accepted) in [(10_000, true), (20_000, false), (200_000, false)] {
        let mut request = tonic::Request::new(list(&spirit_id));
        let value = "x".repeat(bytes).parse().unwrap();
        request.metadata_mut().insert("x-long", value);
        let answer = timeout(PATIENCE, events.list_events(request)).await;
        let answer = answer.expect("the call is answered in time");
        assert_eq!(answer.is_ok(), accepted, "{bytes} bytes: {answer:?}");
        create(&mut events, event(&spirit_id)).await;
    }
}

#[tokio::test]
async fn messages_of_unknown_compression_are_refused_and_truncated_gzip_is_undecodable() {
    let server = TestServer::start().await;
    let raw = RawClient::connect(server.addr).await;
    // The header of gzip without data.
    let truncated = [&[1], &framed(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3])[1..]].concat();
    for path in [CREATE, LIST, STREAM] {
        for (encoding, code) in [
            ("gzip", Code::InvalidArgument),
            ("deflate", Code::Unimplemented),
            ("zstd", Code::Unimplemented),
        ] {
            let headers = [("grpc-encoding", encoding)];
            let end = raw.call(path, &headers, truncated.clone()).await;
            let status = end.error::<()>().unwrap_err();
            assert_eq!(status.code(), code, "{status:?}");
            assert!(status.message().contains(encoding), "{status:?}");
        }
    }
}

/// tests/cli/cancelled_calls.rs cancels more calls, of every kind, against a separate server process.
const CANCELLED_CALLS: usize = 20_000;
const CANCELLING_CLIENTS: usize = 4;

/// Opens calls and cancels each, before or after the server has started to process it.
async fn cancel_many(addr: SocketAddr, spirit_id: String) {
    let (mut requests, mut connection) = connect_raw(addr).await;
    let body = Bytes::from(encoded(&list(&spirit_id)));
    for call in 0..CANCELLED_CALLS / CANCELLING_CLIENTS {
        if connection.is_finished() {
            // The server may close a connection that cancels calls faster than they are processed.
            (requests, connection) = connect_raw(addr).await;
        }
        let Ok(mut ready) = requests.clone().ready().await else {
            continue;
        };
        let request = Request::post(format!("http://{addr}{LIST}"))
            .header("te", "trailers")
            .header("content-type", "application/grpc");
        let Ok((response, mut request_body)) = ready.send_request(request.body(()).unwrap(), false) else {
            continue;
        };
        drop(request_body.send_data(body.clone(), true));
        if call % 8 == 0 {
            drop(timeout(Duration::from_micros(500), response).await);
        }
        request_body.send_reset(Reason::CANCEL);
    }
}

async fn connect_raw(addr: SocketAddr) -> (SendRequest<Bytes>, tokio::task::JoinHandle<()>) {
    let socket = TcpStream::connect(addr).await.unwrap();
    let (requests, connection) = client::handshake(socket).await.unwrap();
    (requests, tokio::spawn(async { drop(connection.await) }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_cancelled_calls_leaves_no_statement_and_blocks_no_other_client() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    create(&mut server.events(), event(&spirit_id)).await;
    let mut cancelling = JoinSet::new();
    for _ in 0..CANCELLING_CLIENTS {
        cancelling.spawn(cancel_many(server.addr, spirit_id.clone()));
    }
    // Other clients are served during the flood.
    let mut events = server.events();
    while !cancelling.is_empty() {
        let listed = timeout(PATIENCE, events.list_events(list(&spirit_id))).await;
        listed.expect("other clients are served").unwrap();
        while let Some(ended) = cancelling.try_join_next() {
            ended.unwrap();
        }
    }
    all_idle(&server).await;
    create(&mut events, event(&spirit_id)).await;
}
