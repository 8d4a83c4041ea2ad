//! Tests of `export`: what is exported is what is imported again.

use elephantasm_events::grpc::pb::session_service_client::SessionServiceClient;
use elephantasm_events::grpc::pb::{
    BatchCreateEventsRequest, CreateEventRequest, Event, EventFilter, EventOrder, ListEventsRequest,
    ListSessionsRequest, Session, SessionFilter, SoftDeleteEventRequest, UpdateSessionRequest,
};
use fastrand::Rng;
use prost_types::value::Kind;
use prost_types::{Struct, Timestamp, Value};
use sqlx::Executor as _;

use crate::harness::{Server, TestDir, finish_measured};

const MIB: usize = 1024 * 1024;

/// The number of random events; a larger one by the environment.
fn event_count() -> usize {
    let given = std::env::var("EXPORT_TEST_EVENTS").ok();
    given.map_or(3_000, |count| count.parse().unwrap())
}

fn text(rng: &mut Rng, max: usize) -> String {
    const CHARS: [char; 12] = [
        'a', 'Z', '0', ' ', '"', '\\', '\n', '\t', 'é', '🐘', '\u{2028}', '\u{9b}',
    ];
    (0..rng.usize(..=max))
        .map(|_| CHARS[rng.usize(..CHARS.len())])
        .collect()
}

fn optional<T>(rng: &mut Rng, value: impl FnOnce(&mut Rng) -> T) -> Option<T> {
    rng.bool().then(|| value(rng))
}

fn object(rng: &mut Rng) -> Struct {
    let mut fields = std::collections::BTreeMap::new();
    for n in 0..rng.usize(..4) {
        let kind = match rng.u8(..6) {
            0 => Kind::NullValue(0),
            1 => Kind::BoolValue(rng.bool()),
            2 => Kind::NumberValue(rng.f64() * 10_f64.powi(rng.i32(-20..20))),
            3 => Kind::NumberValue(f64::from(rng.i32(..))),
            4 => Kind::StructValue(Struct::default()),
            _ => Kind::StringValue(text(rng, 9)),
        };
        let name = format!("{n}{}", text(rng, 3));
        fields.insert(name, Value { kind: Some(kind) });
    }
    Struct { fields }
}

/// A random event. Times repeat, and are not in the order of the events.
fn random_event(rng: &mut Rng, spirit_id: &str, n: usize) -> CreateEventRequest {
    CreateEventRequest {
        spirit_id: spirit_id.to_owned(),
        event_type: ["message.in", "tool.call", "x y"][rng.usize(..3)].to_owned(),
        content: Some(if rng.u8(..) == 0 {
            "long ".repeat(10_000)
        } else {
            text(rng, 60)
        }),
        meta_summary: optional(rng, |rng| text(rng, 20)),
        occurred_at: Some(Timestamp {
            seconds: rng.i64(1_700_000_000..1_700_001_000),
            nanos: rng.i32(0..1_000_000) * 1_000,
        }),
        session_id: optional(rng, |rng| format!("session {}", rng.u8(..20))),
        role: optional(rng, |_| "user".to_owned()),
        author: optional(rng, |rng| format!("a{}", text(rng, 5))),
        meta: optional(rng, object),
        source_uri: optional(rng, |_| format!("file://{n}")),
        dedupe_key: (rng.u8(..4) == 0).then(|| format!("key {n}")),
        importance_score: optional(rng, Rng::f64),
        ..CreateEventRequest::default()
    }
}

/// Stores random events of which some are soft-deleted, and sessions with properties.
async fn fill(server: &Server, rng: &mut Rng, spirit_id: &str, count: usize) {
    let mut client = server.events().await;
    let requests: Vec<_> = (0..count).map(|n| random_event(rng, spirit_id, n)).collect();
    for chunk in requests.chunks(200) {
        let request = BatchCreateEventsRequest {
            requests: chunk.to_vec(),
            ..BatchCreateEventsRequest::default()
        };
        client.batch_create_events(request).await.unwrap();
    }
    for event in events(server, spirit_id)
        .await
        .iter()
        .take(400)
        .filter(|_| rng.u8(..8) == 0)
    {
        let request = SoftDeleteEventRequest {
            event_id: event.id.clone(),
            ..SoftDeleteEventRequest::default()
        };
        client.soft_delete_event(request).await.unwrap();
    }
    let mut sessions = SessionServiceClient::new(server.channel().await);
    for n in 0..25 {
        let request = UpdateSessionRequest {
            spirit_id: spirit_id.to_owned(),
            session_id: format!("session {n}"),
            title: (n % 2 == 0).then(|| format!("title {n}")),
            owner: (n % 3 == 0).then(|| "ann".to_owned()),
            meta: Some(object(rng)),
            ..UpdateSessionRequest::default()
        };
        sessions.update_session(request).await.unwrap();
    }
}

/// All events in the order of their sequences.
async fn events(server: &Server, spirit_id: &str) -> Vec<Event> {
    let mut request = ListEventsRequest {
        spirit_id: spirit_id.to_owned(),
        filter: Some(EventFilter {
            include_deleted: true,
            ..EventFilter::default()
        }),
        order: EventOrder::Sequence.into(),
        page_size: 200,
        ..ListEventsRequest::default()
    };
    let mut client = server.events().await;
    let mut events = Vec::new();
    loop {
        let page = client.list_events(request.clone()).await.unwrap().into_inner();
        events.extend(page.events);
        if page.next_page_token.is_empty() {
            return events;
        }
        request.page_token = page.next_page_token;
    }
}

async fn sessions(server: &Server, spirit_id: &str) -> Vec<Session> {
    let request = ListSessionsRequest {
        spirit_id: spirit_id.to_owned(),
        page_size: 200,
        filter: Some(SessionFilter {
            include_empty: true,
            ..SessionFilter::default()
        }),
        ..ListSessionsRequest::default()
    };
    let mut client = SessionServiceClient::new(server.channel().await);
    client.list_sessions(request).await.unwrap().into_inner().sessions
}

/// The event without the fields that are new after an import.
fn kept(event: &Event) -> Event {
    Event {
        id: String::new(),
        spirit_id: None,
        sequence: 0,
        revision: 0,
        deleted_at: None,
        created_at: None,
        updated_at: None,
        dedupe_key: event.dedupe_key.clone().filter(|key| !key.starts_with("import:")),
        ..event.clone()
    }
}

fn kept_of_session(session: &Session) -> Session {
    Session {
        spirit_id: String::new(),
        last_sequence: 0,
        revision: 0,
        updated_at: None,
        ..session.clone()
    }
}

/// A server on another database of the same PostgreSQL.
async fn other_database(test_dir: &TestDir) -> Server {
    test_dir
        .connect()
        .await
        .execute("create database copy")
        .await
        .unwrap();
    let url = test_dir.database_url("copy");
    Server::run(test_dir, test_dir.command(&[]).env("DATABASE_URL", url)).await
}

#[tokio::test]
async fn an_export_that_is_imported_into_another_database_gives_equal_events_and_sessions() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let mut rng = Rng::with_seed(16);
    let spirit_id = server.spirit("Ada").await;
    fill(&server, &mut rng, &spirit_id, event_count()).await;
    let file = test_dir.path().join("ada.jsonl.gz");
    let file = file.to_str().unwrap();
    let export = ["export", "--spirit", "Ada", "--include-deleted", "--output", file];
    let (exited, peak) = finish_measured(test_dir.command(&export).env("EVENTS_ADDR", &server.addr)).await;
    let counted = format!("exported events {}, sessions ", event_count());
    exited.exits_with(0).reports(&[&counted]);
    assert!(peak <= 64 * MIB, "{} MiB", peak / MIB);
    assert!(std::fs::read(file).unwrap().starts_with(&[0x1F, 0x8B]), "packed");

    let copy = other_database(&test_dir).await;
    for created in [event_count(), 0] {
        let mut import = test_dir.command(&["import", file, "--spirit", "Ada"]);
        let (exited, peak) = finish_measured(import.env("EVENTS_ADDR", &copy.addr)).await;
        let exited = exited.exits_with(0);
        assert!(peak <= 64 * MIB, "{} MiB", peak / MIB);
        assert!(
            exited.stdout.contains(&format!("created {created}, ")),
            "{exited:?}"
        );
    }
    let copied_id = copy.spirit_id("Ada").await;
    let (original, copied) = (events(&server, &spirit_id).await, events(&copy, &copied_id).await);
    assert_eq!(original.len(), event_count());
    assert_eq!(copied.len(), original.len());
    assert!(original.iter().any(|event| event.is_deleted));
    for (before, after) in original.iter().zip(&copied) {
        assert_eq!(kept(after), kept(before));
        assert!(
            after.dedupe_key.is_some()
                && (before.dedupe_key.is_none() || before.dedupe_key == after.dedupe_key)
        );
    }
    let (original, copied) = (
        sessions(&server, &spirit_id).await,
        sessions(&copy, &copied_id).await,
    );
    let kept = |sessions: Vec<Session>| sessions.iter().map(kept_of_session).collect::<Vec<_>>();
    assert_eq!(kept(copied), kept(original));
    copy.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn an_export_is_continued_after_its_cursor_and_live_events_alone_are_the_default() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let mut rng = Rng::with_seed(7);
    let spirit_id = server.spirit("Ada").await;
    fill(&server, &mut rng, &spirit_id, 400).await;
    let export = async |arguments: &[&str]| {
        let arguments = [&["export", "--spirit", "Ada"], arguments].concat();
        server.command(&test_dir, &arguments).await
    };
    let whole = export(&[]).await.exits_with(0).stdout;
    let sequence = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["sequence"].as_i64();
    let live = events(&server, &spirit_id)
        .await
        .into_iter()
        .filter(|event| !event.is_deleted);
    assert!(
        whole
            .lines()
            .filter_map(sequence)
            .eq(live.map(|event| event.sequence))
    );

    let lines: Vec<&str> = whole.split_inclusive('\n').collect();
    let first = lines[..150].concat();
    let cursor = sequence(lines[149]).unwrap().to_string();
    let packed = zstd::encode_all(first.as_bytes(), 1).unwrap();
    let gzipped = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, first.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    for (name, begun) in [
        ("a.jsonl", first.clone().into_bytes()),
        ("b.zst", packed),
        ("c.gz", gzipped),
    ] {
        let file = test_dir.file(name, begun);
        export(&["--after", &cursor, "--output", &file])
            .await
            .exits_with(0);
        assert_eq!(unpacked(&file), whole, "{name}");
    }
    let cut = test_dir.file("cut.jsonl", first.trim_end());
    let refused = export(&["--after", &cursor, "--output", &cut]).await;
    refused.exits_with(1).reports(&["ends within a line"]);

    let session = export(&["--session", "session 4"]).await.exits_with(0).stdout;
    assert!(session.lines().all(|line| line.contains("session 4")) && session.contains("title 4"));
    server.stop().await;
}

fn unpacked(file: &str) -> String {
    let bytes = std::fs::read(file).unwrap();
    let mut text = String::new();
    let mut reader: Box<dyn std::io::Read> = match file.rsplit('.').next().unwrap() {
        "gz" => Box::new(flate2::read::MultiGzDecoder::new(&bytes[..])),
        "zst" => Box::new(zstd::Decoder::new(&bytes[..]).unwrap()),
        _ => Box::new(&bytes[..]),
    };
    reader.read_to_string(&mut text).unwrap();
    text
}
