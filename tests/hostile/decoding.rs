//! Requests of a few bytes that decode to much memory.

use std::time::Duration;

use http::Method;
use tokio::time::sleep;
use tonic::Code;

use crate::support::{BATCH_CREATE, CREATE_EVENT, Host, MIB, Raw, details, framed, peak};

/// Memory that one call may take, with its bytes and the allocator's slack.
const CALL_BYTES_MAX: usize = 64 * MIB;
const CALLS: usize = 8;

/// Encodes a length-delimited field.
fn field(number: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    prost::encoding::encode_varint(value.len() as u64, &mut bytes);
    bytes.extend(value);
    bytes
}

/// A BatchCreateEventsRequest of empty items.
fn empty_items(count: usize) -> Vec<u8> {
    [0x0a, 0].repeat(count)
}

/// A CreateEventRequest whose `meta` is a list of these values.
fn meta_list(value: &[u8], count: usize) -> Vec<u8> {
    let list = field(6, &field(1, value).repeat(count));
    let entry = [field(1, b"a"), field(2, &list)].concat();
    field(9, &field(1, &entry))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_of_three_megabytes_never_takes_more_than_64() {
    let host = Host::start(&[]).await;
    let raw = Raw::connect(host.addr()).await;
    let headers = [("content-type", "application/grpc")];
    let call = async |path, body: Vec<u8>| {
        raw.call(Method::POST, path, &headers, framed(&body))
            .await
            .grpc_status()
    };
    call(BATCH_CREATE, empty_items(10)).await;

    for (description, path, body, code) in [
        (
            "1.5 million items",
            BATCH_CREATE,
            empty_items(1_500_000),
            Code::ResourceExhausted,
        ),
        (
            "a list of 750,000 nulls",
            CREATE_EVENT,
            meta_list(&[8, 0], 750_000),
            Code::ResourceExhausted,
        ),
        (
            "a list of a million empty values",
            CREATE_EVENT,
            meta_list(&[], 1_000_000),
            Code::ResourceExhausted,
        ),
        (
            "almost as many items as are decoded",
            BATCH_CREATE,
            empty_items(70_000),
            Code::InvalidArgument,
        ),
        (
            "as many nulls as are decoded",
            CREATE_EVENT,
            meta_list(&[8, 0], 400_000),
            Code::InvalidArgument,
        ),
    ] {
        let before = host.resident();
        let (status, peak) = peak(&host, call(path, body)).await;
        let growth = peak.saturating_sub(before);
        println!("{description}: {} MiB, {:?}", growth / MIB, status.code());
        assert_eq!(status.code(), code, "{description}: {status:?}");
        if code == Code::ResourceExhausted {
            assert_eq!(details(&status).0, "MESSAGE_TOO_LARGE", "{description}");
        }
        assert!(growth < CALL_BYTES_MAX, "{description}: {} MiB", growth / MIB);
    }
    host.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_such_requests_at_once_take_little_more_than_their_bytes() {
    let host = Host::start(&[]).await;
    let raw = Raw::connect(host.addr()).await;
    let headers = [("content-type", "application/grpc")];
    host.spirit_count(None).await.unwrap();
    let before = host.resident();
    let calls = (0..CALLS).map(|_| {
        let raw = raw.clone();
        async move {
            let body = framed(&empty_items(1_500_000));
            let reply = raw.call(Method::POST, BATCH_CREATE, &headers, body).await;
            reply.grpc_status()
        }
    });
    let (statuses, peak) = peak(&host, futures_util::future::join_all(calls)).await;
    for status in statuses {
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    }
    let growth = peak.saturating_sub(before);
    println!("{CALLS} at once: {} MiB", growth / MIB);
    assert!(growth < 2 * CALL_BYTES_MAX, "{} MiB", growth / MIB);
    sleep(Duration::from_millis(100)).await;
    assert_eq!(host.spirit_count(None).await.unwrap(), 0);
    host.server.stop().await;
}
