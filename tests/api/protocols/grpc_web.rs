//! gRPC-Web, in its binary form and as base64.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use elephantasm_events::grpc::pb;
use http::Method;
use prost::Message as _;

use crate::support::builders::{event, stream};
use crate::support::harness::TestServer;
use crate::support::http::{EVENTS, Http, HttpClient, frames_of};
use crate::support::raw::encoded;

const WEB: (&str, &str) = ("content-type", "application/grpc-web+proto");
const TEXT: (&str, &str) = ("content-type", "application/grpc-web-text");
/// The flag of the frame that holds the trailers.
const TRAILERS: u8 = 0x80;

#[tokio::test]
async fn unary_calls_and_streams_end_with_their_trailers_in_the_body() {
    let server = TestServer::start().await;
    for http in [Http::One, Http::Two] {
        let client = HttpClient::new(server.addr, http);
        let spirit_id = client.spirit().await;
        let mut request = event(&spirit_id);
        request.session_id = Some("s".to_owned());
        let reply = client
            .send(
                Method::POST,
                &format!("{EVENTS}/CreateEvent"),
                &[WEB],
                encoded(&request),
            )
            .await;
        let frames = frames_of(&reply.body);
        let created = pb::CreateEventResponse::decode(&frames[0].1[..]).unwrap();
        assert_eq!(created.event.unwrap().sequence, 1);
        assert_eq!(frames[1], (TRAILERS, b"grpc-status:0\r\n".to_vec()), "{http:?}");

        let replay = encoded(&stream(&spirit_id, "s"));
        let text = BASE64_STANDARD.encode(replay);
        let reply = client
            .send(
                Method::POST,
                &format!("{EVENTS}/StreamSessionEvents"),
                &[TEXT, ("accept", TEXT.1)],
                text,
            )
            .await;
        // Each part is padded by itself.
        let parts = reply
            .body
            .split_inclusive(|byte| *byte == b'=')
            .collect::<Vec<_>>();
        assert!(!parts.is_empty(), "{reply:?}");
        assert_eq!(reply.headers["content-type"], "application/grpc-web-text+proto");
    }
}

#[tokio::test]
async fn errors_have_their_status_in_the_headers_and_streams_of_requests_need_grpc() {
    let server = TestServer::start().await;
    let client = HttpClient::new(server.addr, Http::One);
    for (rpc, request, status) in [
        ("CreateEvent", encoded(&event("x")), "3"),
        ("IngestEvents", encoded(&pb::IngestEventsRequest::default()), "12"),
    ] {
        let reply = client
            .send(Method::POST, &format!("{EVENTS}/{rpc}"), &[WEB], request)
            .await;
        assert_eq!(reply.headers["grpc-status"], status, "{reply:?}");
        assert!(reply.headers.contains_key("grpc-status-details-bin"), "{reply:?}");
    }
}
