//! Errors of every origin: undecodable messages, size limits, deadlines, the database.

use elephantasm_events::grpc::pb::{CreateEventRequest, CreateSpiritRequest};
use prost::Message as _;
use sqlx::Connection as _;
use tonic::Code;

use crate::support::builders::{create, event, keyed, refused, stream};
use crate::support::harness::TestServer;
use crate::support::raw::{RawClient, encoded, framed, read_to_end};
use crate::support::validation::{UNKNOWN_ID, nested_objects};

const CREATE: &str = "/elephantasm.events.v1.EventService/CreateEvent";
const BATCH: &str = "/elephantasm.events.v1.EventService/BatchCreateEvents";
const STREAM: &str = "/elephantasm.events.v1.EventService/StreamSessionEvents";

#[tokio::test]
async fn malformed_messages_are_undecodable() {
    let server = TestServer::start().await;
    let raw = RawClient::connect(server.addr).await;
    let whole = event(UNKNOWN_ID).encode_to_vec();
    let cut = &whole[..whole.len() - 1];
    for (description, body) in [
        ("garbage", framed(&[0xff; 40])),
        ("a field of another type", framed(&[0x08, 0x01])),
        ("invalid UTF-8 in a string", framed(&[0x12, 0x02, 0xc3, 0x28])),
        ("a message cut short", framed(cut)),
        ("a frame cut short", encoded(&event(UNKNOWN_ID))[..20].to_vec()),
        ("a frame without its length", vec![0, 0, 0]),
        ("no message", vec![]),
        ("an unknown compression", [&[1], &framed(&whole)[1..]].concat()),
    ] {
        for path in [CREATE, BATCH, STREAM] {
            let end = raw.call(path, &[], body.clone()).await;
            let status = refused(end.error::<()>(), Code::InvalidArgument, "UNDECODABLE");
            assert_no_internals(&status, description);
        }
    }
    let too_deep = CreateEventRequest {
        meta: Some(nested_objects(150)),
        ..event(UNKNOWN_ID)
    };
    let end = raw.call(CREATE, &[], encoded(&too_deep)).await;
    refused(end.error::<()>(), Code::InvalidArgument, "UNDECODABLE");
    // The connection is still usable.
    let end = raw.call(CREATE, &[], encoded(&event(UNKNOWN_ID))).await;
    refused(end.error::<()>(), Code::NotFound, "SPIRIT_NOT_FOUND");
}

/// Asserts that the message of an error reveals nothing about the implementation.
#[track_caller]
fn assert_no_internals(status: &tonic::Status, description: &str) {
    let message = status.message().to_lowercase();
    for internal in [
        "sql",
        "postgres",
        "relation",
        "constraint",
        "select ",
        "insert ",
        "panicked",
        "src/",
    ] {
        assert!(!message.contains(internal), "{description}: {message}");
    }
}

/// A create of exactly this many bytes on the wire.
fn create_of_bytes(spirit_id: &str, bytes: usize) -> CreateEventRequest {
    let mut request = CreateEventRequest {
        content: Some("x".repeat(bytes)),
        ..event(spirit_id)
    };
    let overhead = request.encoded_len() - bytes;
    request.content = Some("x".repeat(bytes - overhead));
    assert_eq!(
        request.encoded_len(),
        bytes,
        "a length prefix changed its size: use another size"
    );
    request
}

#[tokio::test]
async fn message_bytes_max_is_the_size_of_the_largest_accepted_message() {
    const BYTES_MAX: usize = 4 * 1024;
    let server = TestServer::start_with(|settings| settings.server.message_bytes_max = BYTES_MAX).await;
    let spirit_id = server.spirit().await;
    let mut events = server.events();
    create(&mut events, create_of_bytes(&spirit_id, BYTES_MAX)).await;
    let status = refused(
        events
            .create_event(create_of_bytes(&spirit_id, BYTES_MAX + 1))
            .await,
        Code::ResourceExhausted,
        "MESSAGE_TOO_LARGE",
    );
    assert!(status.message().contains("4096"), "{}", status.message());
    let request = CreateSpiritRequest {
        name: "x".repeat(BYTES_MAX),
        ..CreateSpiritRequest::default()
    };
    refused(
        server.spirits().create_spirit(request).await,
        Code::ResourceExhausted,
        "MESSAGE_TOO_LARGE",
    );
    let mut request = stream(&spirit_id, "s");
    request.session_id = "x".repeat(BYTES_MAX);
    refused(
        events.stream_session_events(request).await,
        Code::ResourceExhausted,
        "MESSAGE_TOO_LARGE",
    );
}

#[tokio::test]
async fn an_unknown_method_is_unimplemented() {
    let server = TestServer::start().await;
    let raw = RawClient::connect(server.addr).await;
    for path in [
        "/elephantasm.events.v1.EventService/Nothing",
        "/no.such.Service/CreateEvent",
        "/",
    ] {
        let status = raw.call(path, &[], framed(&[])).await.error::<()>().unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_deadline_ends_blocked_calls_and_stalled_streams() {
    let server = TestServer::start().await;
    let (locked, streamed) = (server.spirit().await, server.spirit().await);
    let mut connection = server.database.connect().await;
    sqlx::query(
        "insert into events (id, spirit_id, sequence, event_type, content, occurred_at, session_id)
         select gen_random_uuid(), $1::text::uuid, n, 'x', repeat('x', 100000), to_timestamp(n), 's'
         from generate_series(1, 200) as n",
    )
    .bind(&streamed)
    .execute(&mut connection)
    .await
    .unwrap();
    sqlx::query("update spirits set last_sequence = 200 where id = $1::text::uuid")
        .bind(&streamed)
        .execute(&mut connection)
        .await
        .unwrap();
    let mut transaction = connection.begin().await.unwrap();
    sqlx::query("select id from spirits where id = $1::text::uuid for update")
        .bind(&locked)
        .execute(&mut *transaction)
        .await
        .unwrap();

    // The stream starts first and is not read before the call that waits for the lock has reached its longer
    // deadline. Its 20 MB exceed the HTTP/2 flow-control windows.
    let raw = RawClient::connect(server.addr).await;
    let replay = encoded(&stream(&streamed, "s"));
    let (head, body) = raw.open(STREAM, &[("grpc-timeout", "500m")], replay).await;
    let blocked = encoded(&keyed(&locked, "k"));
    let end = raw.call(CREATE, &[("grpc-timeout", "800m")], blocked).await;
    refused(end.error::<()>(), Code::DeadlineExceeded, "DEADLINE");
    let end = read_to_end(head, body).await;
    refused(end.error::<()>(), Code::DeadlineExceeded, "DEADLINE");
    transaction.rollback().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_calls_that_time_out_together_all_fail_with_deadline() {
    const CALLS: usize = 100;
    let server = TestServer::start().await;
    let locked = server.spirit().await;
    let mut connection = server.database.connect().await;
    let mut transaction = connection.begin().await.unwrap();
    sqlx::query("select id from spirits where id = $1::text::uuid for update")
        .bind(&locked)
        .execute(&mut *transaction)
        .await
        .unwrap();
    let raw = RawClient::connect(server.addr).await;
    let calls = (0..CALLS).map(|_| raw.call(CREATE, &[("grpc-timeout", "300m")], encoded(&event(&locked))));
    for end in futures_util::future::join_all(calls).await {
        refused(end.error::<()>(), Code::DeadlineExceeded, "DEADLINE");
    }
    transaction.rollback().await.unwrap();
}

#[tokio::test]
async fn unexpected_database_errors_are_internal_and_reveal_no_details() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut connection = server.database.connect().await;
    sqlx::query("alter table events rename column author to nobody")
        .execute(&mut connection)
        .await
        .unwrap();
    let status = refused(
        server.events().create_event(event(&spirit_id)).await,
        Code::Internal,
        "INTERNAL",
    );
    assert_no_internals(&status, "a create");
    for word in ["author", "column", "events", "42703"] {
        assert!(!status.message().contains(word), "{}", status.message());
    }
    let request_id = tonic_types::StatusExt::get_details_request_info(&status)
        .unwrap()
        .request_id;
    assert!(
        status.message().contains(&request_id),
        "the message has the request id, by which its log line is found"
    );
}
