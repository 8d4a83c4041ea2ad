//! A proxy that receives gRPC and forwards it as Connect with JSON, so that tests written for gRPC clients run over
//! Connect.

use std::net::SocketAddr;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use elephantasm_events::grpc::pb;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use prost::Message as _;
use prost::bytes::{Buf as _, Bytes, BytesMut};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tonic::{Code, Status};
use tonic_types::pb as rpc;

use crate::support::http::{Http, HttpClient};
use crate::support::raw::framed;

static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(pb::FILE_DESCRIPTOR_SET).unwrap());

/// Starts a proxy to this server, which runs until the end of the test, and returns its address.
pub async fn start(server: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(serve(socket, HttpClient::new(server, Http::One)));
        }
    });
    addr
}

async fn serve(socket: TcpStream, client: HttpClient) {
    let mut connection = h2::server::handshake(socket).await.unwrap();
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(forward(request, respond, client));
    }
}

async fn forward(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, client: HttpClient) {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let method = method(path);
    let json = to_json(method.input(), &read_message(body).await);
    let is_stream = method.is_server_streaming() && !method.is_client_streaming();
    let (content_type, body) = if is_stream {
        ("application/connect+json", framed(json.as_bytes()))
    } else {
        ("application/json", json.into_bytes())
    };
    let mut headers = vec![("content-type", content_type)];
    if let Some(authorization) = head.headers.get("authorization") {
        headers.push(("authorization", authorization.to_str().unwrap()));
    }
    let reply = client.open(Method::POST, path, &headers, body).await;
    let response = Response::builder().header("content-type", "application/grpc");
    let Ok(mut sent) = respond.send_response(response.body(()).unwrap(), false) else {
        return;
    };
    let end = if is_stream {
        forward_stream(reply, &method, &mut sent).await
    } else {
        forward_reply(reply, &method, &mut sent).await
    };
    let mut trailers = HeaderMap::new();
    end.unwrap_or_else(|| Status::new(Code::Ok, ""))
        .add_header(&mut trailers)
        .unwrap();
    drop(sent.send_trailers(trailers)); // fails if the client has gone
}

/// Forwards a unary reply; returns its error.
async fn forward_reply(
    reply: Response<Incoming>,
    method: &MethodDescriptor,
    sent: &mut SendStream<Bytes>,
) -> Option<Status> {
    let is_ok = reply.status() == 200;
    let body = reply.into_body().collect().await.unwrap().to_bytes();
    if !is_ok {
        return Some(status_of(&serde_json::from_slice(&body).unwrap()));
    }
    drop(sent.send_data(to_message(method.output(), &body), false));
    None
}

/// Forwards a stream until it ends or the client has gone; returns its error.
async fn forward_stream(
    reply: Response<Incoming>,
    method: &MethodDescriptor,
    sent: &mut SendStream<Bytes>,
) -> Option<Status> {
    let mut body = reply.into_body();
    let mut received = BytesMut::new();
    while let Some(frame) = body.frame().await {
        received.extend_from_slice(&frame.unwrap().into_data().unwrap());
        while let Some((flags, message)) = take(&mut received) {
            if flags == 2 {
                let end: Value = serde_json::from_slice(&message).unwrap();
                return end.get("error").map(status_of);
            }
            sent.send_data(to_message(method.output(), &message), false)
                .ok()?;
        }
    }
    panic!("a stream without an end")
}

fn take(received: &mut BytesMut) -> Option<(u8, Bytes)> {
    let length = u32::from_be_bytes(received.get(1..5)?.try_into().unwrap()) as usize;
    if received.len() < 5 + length {
        return None;
    }
    let flags = received.get_u8();
    received.advance(4);
    Some((flags, received.split_to(length).freeze()))
}

async fn read_message(mut body: RecvStream) -> Bytes {
    let mut received = BytesMut::new();
    loop {
        if let Some((_, message)) = take(&mut received) {
            return message;
        }
        received.extend_from_slice(&body.data().await.unwrap().unwrap());
    }
}

fn method(path: &str) -> MethodDescriptor {
    let (service, name) = path.trim_start_matches('/').split_once('/').unwrap();
    let service = POOL.get_service_by_name(service).unwrap();
    service.methods().find(|method| method.name() == name).unwrap()
}

fn to_json(descriptor: MessageDescriptor, message: &[u8]) -> String {
    serde_json::to_string(&DynamicMessage::decode(descriptor, message).unwrap()).unwrap()
}

/// Converts JSON to a framed message.
fn to_message(descriptor: MessageDescriptor, json: &[u8]) -> Bytes {
    let mut json = serde_json::Deserializer::from_slice(json);
    framed(
        &DynamicMessage::deserialize(descriptor, &mut json)
            .unwrap()
            .encode_to_vec(),
    )
    .into()
}

/// Converts an error of Connect to that of gRPC.
fn status_of(error: &Value) -> Status {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let code = match error["code"].as_str().unwrap() {
        "invalid_argument" => Code::InvalidArgument,
        "not_found" => Code::NotFound,
        "permission_denied" => Code::PermissionDenied,
        "unauthenticated" => Code::Unauthenticated,
        "unimplemented" => Code::Unimplemented,
        other => panic!("unexpected code {other}: {error}"),
    };
    let details = error["details"]
        .as_array()
        .unwrap()
        .iter()
        .map(|detail| prost_types::Any {
            type_url: format!("type.googleapis.com/{}", text(&detail["type"])),
            value: BASE64_STANDARD_NO_PAD.decode(text(&detail["value"])).unwrap(),
        });
    let status = rpc::Status {
        code: code.into(),
        message: text(&error["message"]),
        details: details.collect(),
    };
    Status::with_details(code, status.message.clone(), status.encode_to_vec().into())
}
