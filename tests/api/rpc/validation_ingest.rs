//! Every bound of an item of an ingest stream, at the bound and one past it: those of a create, under
//! `create`, and `request_id`'s own.

use elephantasm_events::grpc::pb::ingest_events_response::Result as Item;
use elephantasm_events::grpc::pb::{CreateEventRequest, IngestEventsRequest};
use prost::Message as _;
use tonic::{Code, Status};

use crate::support::builders::event;
use crate::support::harness::TestServer;
use crate::support::probes::{
    Probe, UNKNOWN, Values, at_least, bytes, chars, enums, metas, scores, times, uuids,
};

const KIB: usize = 1024;

/// Sends the item alone; its error as a call would have it.
async fn send(server: &TestServer, item: IngestEventsRequest) -> Result<(), Status> {
    let stream = server.events().ingest_events(tokio_stream::once(item)).await;
    let answer = stream?.into_inner().message().await?.expect("an answer");
    match answer.result.expect("each answer has a result") {
        Item::Receipt(_) => Ok(()),
        Item::Error(error) => Err(Status::with_details(
            Code::from_i32(error.code),
            error.message.clone(),
            error.encode_to_vec().into(),
        )),
    }
}

fn create(item: &mut IngestEventsRequest) -> &mut CreateEventRequest {
    item.create.as_mut().unwrap()
}

fn request_ids() -> Values<String> {
    vec![
        ("empty", String::new(), true),
        ("64 characters", "🐘".repeat(64), true),
        ("65 characters", "🐘".repeat(65), false),
        ("65 characters of ASCII", "x".repeat(65), false),
        ("U+0000", "a\0b".to_owned(), false),
    ]
}

#[tokio::test]
async fn an_item_keeps_every_bound() {
    let server = TestServer::start().await;
    let base = IngestEventsRequest {
        request_id: "r".to_owned(),
        create: Some(event(&server.spirit().await)),
    };
    Probe::new(base)
        .field("request_id", request_ids(), |r, v| r.request_id = v)
        .case("no create", &["create"], |r| r.create = None)
        .field("create.event_type", chars(100), |r, v| create(r).event_type = v)
        .field("create.content", bytes(KIB * KIB), |r, v| {
            create(r).content = Some(v);
        })
        .case("no content", &["create.content"], |r| create(r).content = None)
        .field("create.meta_summary", bytes(16 * KIB), |r, v| {
            create(r).meta_summary = Some(v);
        })
        .field("create.occurred_at", times(), |r, v| {
            create(r).occurred_at = Some(v);
        })
        .field("create.session_id", chars(255), |r, v| {
            create(r).session_id = Some(v);
        })
        .field("create.role", chars(50), |r, v| create(r).role = Some(v))
        .field("create.author", chars(255), |r, v| create(r).author = Some(v))
        .field("create.meta", metas(), |r, v| create(r).meta = Some(v))
        .field("create.source_uri", chars(2_048), |r, v| {
            create(r).source_uri = Some(v);
        })
        .field("create.dedupe_key", chars(255), |r, v| {
            create(r).dedupe_key = Some(v);
        })
        .field("create.importance_score", scores(), |r, v| {
            create(r).importance_score = Some(v);
        })
        .field("create.on_duplicate", enums(2), |r, v| create(r).on_duplicate = v)
        .run(async |item| send(&server, item).await)
        .await;
}

#[tokio::test]
async fn the_ids_and_guards_of_an_item_keep_their_bounds() {
    let server = TestServer::start().await;
    let base = IngestEventsRequest {
        create: Some(event(UNKNOWN)),
        ..IngestEventsRequest::default()
    };
    Probe::new(base)
        .field("create.spirit_id", uuids(), |r, v| create(r).spirit_id = v)
        .field("create.expected_last_sequence", at_least(0, i64::MIN), |r, v| {
            create(r).expected_last_sequence = Some(v);
        })
        .run(async |item| send(&server, item).await)
        .await;
}
