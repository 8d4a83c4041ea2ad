//! Corrupted input: requests and tokens with bytes changed, inserted, removed or repeated. Each is accepted or
//! answered with an error of the contract; none causes a panic or an INTERNAL error.
//!
//! The corpus consists of the files in `tests/corpus`: inputs that once caused failures, and inputs with which the
//! fuzzers of `script/fuzz` reached new code paths. The fuzzers call the conversion functions directly; unit tests run
//! those functions on the same files.

use std::fs;
use std::path::Path;

use elephantasm_events::grpc::pb::{
    BatchCreateEventsRequest, CountEventsRequest, CreateEventRequest, CreateSpiritRequest, EventFilter,
    ListEventsRequest, ListSessionsRequest, ListSpiritsRequest, SessionFilter, StreamSessionEventsRequest,
    UpdateEventRequest, UpdateSessionRequest, UpdateSpiritRequest, WatchEventsRequest,
    stream_session_events_request,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use prost::Message as _;
use tokio::runtime::Runtime;
use tonic::{Code, Status};

use crate::support::builders::{at, create, event_at, list, mask, number, object, stream, text};
use crate::support::harness::TestServer;
use crate::support::raw::{RawClient, framed};

const CASES: u32 = 1_500;
/// The methods that are tested. WatchEvents is left out because its streams do not end; deletes, restores and
/// CountSpirits are left out as well.
const METHODS: [&str; 14] = [
    "EventService/CreateEvent",
    "EventService/BatchCreateEvents",
    "EventService/IngestEvents",
    "EventService/GetEvent",
    "EventService/ListEvents",
    "EventService/StreamSessionEvents",
    "EventService/UpdateEvent",
    "EventService/CountEvents",
    "SessionService/ListSessions",
    "SessionService/UpdateSession",
    "SpiritService/CreateSpirit",
    "SpiritService/GetSpirit",
    "SpiritService/ListSpirits",
    "SpiritService/UpdateSpirit",
];
/// Status codes that arbitrary bytes may be answered with.
const CODES_ALLOWED: [Code; 6] = [
    Code::Ok,
    Code::InvalidArgument,
    Code::NotFound,
    Code::AlreadyExists,
    Code::Aborted,
    Code::ResourceExhausted,
];

/// A change to a byte string; an offset is taken modulo the length.
#[derive(Clone, Debug)]
enum Change {
    Set(usize, u8),
    Flip(usize, u8),
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
    Repeat(usize, usize),
    Cut(usize),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let offset = || any::<prop::sample::Index>().prop_map(|index| index.index(1 << 16));
    let change = prop_oneof![
        4 => (offset(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        4 => (offset(), 0..8u8).prop_map(|(at, bit)| Change::Flip(at, 1 << bit)),
        2 => (offset(), prop::collection::vec(any::<u8>(), 1..8)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        2 => (offset(), 1..16usize).prop_map(|(at, count)| Change::Remove(at, count)),
        1 => (offset(), 1..32usize).prop_map(|(at, count)| Change::Repeat(at, count)),
        1 => offset().prop_map(Change::Cut),
    ];
    prop::collection::vec(change, 1..6)
}

fn changed(mut bytes: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for change in changes {
        let within = |offset: usize| if bytes.is_empty() { 0 } else { offset % bytes.len() };
        match change {
            Change::Insert(offset, more) => {
                let at = within(*offset);
                bytes.splice(at..at, more.iter().copied());
            }
            _ if bytes.is_empty() => {}
            Change::Set(offset, byte) => {
                let at = within(*offset);
                bytes[at] = *byte;
            }
            Change::Flip(offset, bit) => {
                let at = within(*offset);
                bytes[at] ^= bit;
            }
            Change::Remove(offset, count) => {
                let at = within(*offset);
                bytes.drain(at..(at + count).min(bytes.len()));
            }
            Change::Repeat(offset, count) => {
                let at = within(*offset);
                let piece = bytes[at..(at + count).min(bytes.len())].to_vec();
                bytes.splice(at..at, piece);
            }
            Change::Cut(offset) => bytes.truncate(within(*offset)),
        }
    }
    bytes
}

/// One encoded request of each kind, with most fields set.
fn requests(spirit_id: &str, event_id: &str, page_token: &str, cursor: &str) -> Vec<Vec<u8>> {
    let filter = Some(EventFilter {
        event_types: vec!["message.in".to_owned()],
        roles: vec!["user".to_owned()],
        authors: vec!["Ada".to_owned()],
        meta_matches: Some("exists($.k) && $.n >= 1".to_owned()),
        min_importance: Some(0.5),
        occurred_from: Some(at(0)),
        meta_contains: Some(object([("k", text("v"))])),
        ..EventFilter::default()
    });
    let full = CreateEventRequest {
        meta: Some(object([("k", text("v")), ("n", number(1.5))])),
        meta_summary: Some("summary".to_owned()),
        role: Some("user".to_owned()),
        source_uri: Some("https://example.org".to_owned()),
        importance_score: Some(0.5),
        ..event_at(spirit_id, "s", 1)
    };
    [
        full.encode_to_vec(),
        BatchCreateEventsRequest {
            requests: vec![full.clone(), full],
            ..Default::default()
        }
        .encode_to_vec(),
        ListEventsRequest {
            filter: filter.clone(),
            page_token: page_token.to_owned(),
            ..list(spirit_id)
        }
        .encode_to_vec(),
        StreamSessionEventsRequest {
            start: Some(stream_session_events_request::Start::AfterCursor(
                cursor.to_owned(),
            )),
            ..stream(spirit_id, "s")
        }
        .encode_to_vec(),
        UpdateEventRequest {
            event_id: event_id.to_owned(),
            meta: Some(object([("k", text("w"))])),
            role: Some("tool".to_owned()),
            update_mask: mask(&["meta", "role"]),
            ..Default::default()
        }
        .encode_to_vec(),
        CountEventsRequest {
            spirit_id: spirit_id.to_owned(),
            filter,
            ..Default::default()
        }
        .encode_to_vec(),
        WatchEventsRequest {
            spirit_id: spirit_id.to_owned(),
            ..Default::default()
        }
        .encode_to_vec(),
    ]
    .into_iter()
    .chain(other_requests(spirit_id))
    .collect()
}

/// Requests about sessions and spirits.
fn other_requests(spirit_id: &str) -> Vec<Vec<u8>> {
    vec![
        ListSessionsRequest {
            spirit_id: spirit_id.to_owned(),
            filter: Some(SessionFilter {
                owner: Some("o".to_owned()),
                title_contains: Some("t".to_owned()),
                ..Default::default()
            }),
            ..Default::default()
        }
        .encode_to_vec(),
        UpdateSessionRequest {
            spirit_id: spirit_id.to_owned(),
            session_id: "s".to_owned(),
            title: Some("t".to_owned()),
            meta: Some(object([("k", text("w"))])),
            ..Default::default()
        }
        .encode_to_vec(),
        CreateSpiritRequest {
            name: "Ada".to_owned(),
            ..Default::default()
        }
        .encode_to_vec(),
        ListSpiritsRequest {
            name_contains: Some("a".to_owned()),
            ..Default::default()
        }
        .encode_to_vec(),
        UpdateSpiritRequest {
            spirit_id: spirit_id.to_owned(),
            name: Some("Eve".to_owned()),
            ..Default::default()
        }
        .encode_to_vec(),
    ]
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/corpus")
        .join(name);
    let files = fs::read_dir(dir).unwrap();
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Sends the bytes as a request of each method.
async fn send(raw: &RawClient, methods: &[&str], bytes: &[u8]) -> Result<(), Status> {
    for method in methods {
        let path = format!("/elephantasm.events.v1.{method}");
        let end = raw.call(&path, &[("grpc-timeout", "20S")], framed(bytes)).await;
        let status = end.error::<()>().unwrap_err();
        // A stream with `follow` ends only at its deadline.
        let follows = status.code() == Code::DeadlineExceeded && method.contains("Stream");
        if !CODES_ALLOWED.contains(&status.code()) && !follows {
            return Err(status);
        }
    }
    Ok(())
}

/// Creates a spirit with two events; returns its id and that of the first event.
async fn spirit_with_events(server: &TestServer) -> (String, String) {
    let spirit_id = server.spirit().await;
    let event_id = create(&mut server.events(), event_at(&spirit_id, "s", 1))
        .await
        .id;
    create(&mut server.events(), event_at(&spirit_id, "s", 2)).await;
    (spirit_id, event_id)
}

/// A valid page token and a valid cursor of the spirit.
async fn tokens(server: &TestServer, spirit_id: &str) -> (String, String) {
    let mut events = server.events();
    let request = ListEventsRequest {
        page_size: 1,
        ..list(spirit_id)
    };
    let page = events.list_events(request).await.unwrap().into_inner();
    let mut replay = events
        .stream_session_events(stream(spirit_id, "s"))
        .await
        .unwrap()
        .into_inner();
    let cursor = replay.message().await.unwrap().unwrap().cursor;
    (page.next_page_token, cursor)
}

#[test]
fn arbitrary_bytes_as_a_request_get_ok_or_an_error_of_the_contract() {
    let runtime = Runtime::new().unwrap();
    let server = runtime.block_on(TestServer::start());
    let raw = runtime.block_on(RawClient::connect(server.addr));
    let (spirit_id, event_id) = runtime.block_on(spirit_with_events(&server));
    let (page_token, cursor) = runtime.block_on(tokens(&server, &spirit_id));
    let mut seeds = requests(&spirit_id, &event_id, &page_token, &cursor);
    seeds.extend(corpus("requests"));
    for seed in &seeds {
        runtime.block_on(send(&raw, &METHODS, seed)).unwrap();
    }
    let cases = (
        prop::sample::select(seeds),
        prop::sample::select(&METHODS[..]),
        changes(),
    );
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&cases, |(seed, method, changes)| {
            let bytes = changed(seed, &changes);
            let sent = runtime.block_on(send(&raw, &[method], &bytes));
            prop_assert!(sent.is_ok(), "{method}: {sent:?} for {bytes:?}");
            Ok(())
        })
        .unwrap();
    // The server still works.
    runtime.block_on(async {
        create(&mut server.events(), event_at(&spirit_id, "s", 3)).await;
        server.stop().await.unwrap();
    });
}

/// The status code of a ListEvents call with this page token.
fn list_with_token(server: &TestServer, runtime: &Runtime, spirit_id: &str, token: String) -> Code {
    let request = ListEventsRequest {
        page_size: 1,
        page_token: token,
        ..list(spirit_id)
    };
    let answer = runtime.block_on(server.events().list_events(request));
    answer.as_ref().map_or_else(Status::code, |_| Code::Ok)
}

#[test]
fn a_page_token_with_any_change_is_rejected() {
    let runtime = Runtime::new().unwrap();
    let server = runtime.block_on(TestServer::start());
    let (spirit_id, _) = runtime.block_on(spirit_with_events(&server));
    let (page_token, _) = runtime.block_on(tokens(&server, &spirit_id));
    for bytes in corpus("tokens").into_iter().filter(|bytes| !bytes.is_empty()) {
        let token = String::from_utf8_lossy(&bytes).into_owned();
        let code = list_with_token(&server, &runtime, &spirit_id, token);
        assert_eq!(code, Code::InvalidArgument, "{bytes:?}");
    }
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&changes(), |changes| {
            let bytes = changed(page_token.clone().into_bytes(), &changes);
            let token = String::from_utf8_lossy(&bytes).into_owned();
            prop_assume!(token != page_token && !token.is_empty());
            let code = list_with_token(&server, &runtime, &spirit_id, token.clone());
            prop_assert_eq!(code, Code::InvalidArgument, "{}", token);
            Ok(())
        })
        .unwrap();
    runtime.block_on(server.stop()).unwrap();
}
