//! Validation of ingest items: `request_id` and every field of `create` at its limit and just past it.

use elephantasm_events::grpc::pb::ingest_events_response::Result as Item;
use elephantasm_events::grpc::pb::{CreateEventRequest, IngestEventsRequest};
use prost::Message as _;
use tonic::{Code, Status};

use crate::support::builders::event;
use crate::support::harness::TestServer;
use crate::support::validation::{
    UNKNOWN_ID, ValidationCases, Values, at_least, bytes, chars, enums, metas, scores, times, uuids,
};

const KIB: usize = 1024;

/// Sends a single item; returns its error as the status that a unary call would return.
async fn send(server: &TestServer, item: IngestEventsRequest) -> Result<(), Status> {
    let stream = server.events().ingest_events(tokio_stream::once(item)).await;
    let reply = stream?.into_inner().message().await?.expect("a reply");
    match reply.result.expect("each reply has a result") {
        Item::Receipt(_) => Ok(()),
        Item::Error(error) => Err(Status::with_details(
            Code::from_i32(error.code),
            error.message.clone(),
            error.encode_to_vec().into(),
        )),
    }
}

/// The item's create, for changes.
fn create(item: &mut IngestEventsRequest) -> &mut CreateEventRequest {
    item.create.as_mut().unwrap()
}

/// Texts for `request_id`.
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
async fn an_ingest_item_enforces_every_field_limit() {
    let server = TestServer::start().await;
    let base = IngestEventsRequest {
        request_id: "r".to_owned(),
        create: Some(event(&server.spirit().await)),
    };
    ValidationCases::new(base)
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
async fn an_ingest_item_validates_spirit_id_and_guards() {
    let server = TestServer::start().await;
    let base = IngestEventsRequest {
        create: Some(event(UNKNOWN_ID)),
        ..IngestEventsRequest::default()
    };
    ValidationCases::new(base)
        .field("create.spirit_id", uuids(), |r, v| create(r).spirit_id = v)
        .field("create.expected_last_sequence", at_least(0, i64::MIN), |r, v| {
            create(r).expected_last_sequence = Some(v);
        })
        .field(
            "create.expected_session_last_sequence",
            at_least(0, i64::MIN),
            |r, v| {
                create(r).session_id = Some("s".to_owned());
                create(r).expected_session_last_sequence = Some(v);
            },
        )
        .field("create.reply_view", enums(2), |r, v| create(r).reply_view = v)
        .run(async |item| send(&server, item).await)
        .await;
}
