//! All bad fields at once, and never more metadata than clients take.

use elephantasm_events::grpc::pb::batch_create_events_result::Result as Item;
use elephantasm_events::grpc::pb::{
    BatchCreateEventsRequest, BatchMode, CreateEventRequest, CreateSpiritRequest, EventFilter,
    ListEventsRequest, UpdateEventRequest,
};
use prost_types::{FieldMask, Timestamp};
use tonic::Code;
use tonic_types::{RpcStatusExt as _, StatusExt as _};

use crate::support::builders::{bad_fields, event, keyed, metadata, number, object, refused};
use crate::support::harness::TestServer;
use crate::support::raw::{End, RawClient, encoded};

const METADATA_BYTES_MAX: usize = 6 * 1024;
const CREATE: &str = "/elephantasm.events.v1.EventService/CreateEvent";
const BATCH: &str = "/elephantasm.events.v1.EventService/BatchCreateEvents";
const LIST: &str = "/elephantasm.events.v1.EventService/ListEvents";
const UPDATE: &str = "/elephantasm.events.v1.EventService/UpdateEvent";

/// A create in which everything is bad.
fn all_bad() -> CreateEventRequest {
    CreateEventRequest {
        spirit_id: "x".to_owned(),
        event_type: "🐘".repeat(101),
        content: None,
        meta_summary: Some("🐘".repeat(5_000)),
        occurred_at: Some(Timestamp {
            seconds: 0,
            nanos: -1,
        }),
        session_id: Some(String::new()),
        role: Some("\0".repeat(51)),
        author: Some("🐘".repeat(256)),
        meta: Some(object([("k", number(f64::NAN))])),
        source_uri: Some(String::new()),
        dedupe_key: Some("\0".to_owned()),
        importance_score: Some(2.0),
        on_duplicate: 9,
        expected_last_sequence: Some(-1),
    }
}

const ALL: [&str; 14] = [
    "author",
    "content",
    "dedupe_key",
    "event_type",
    "expected_last_sequence",
    "importance_score",
    "meta",
    "meta_summary",
    "occurred_at",
    "on_duplicate",
    "role",
    "session_id",
    "source_uri",
    "spirit_id",
];

fn sorted(mut fields: Vec<String>) -> Vec<String> {
    fields.sort_unstable();
    fields
}

fn batch(mode: BatchMode, requests: Vec<CreateEventRequest>) -> BatchCreateEventsRequest {
    BatchCreateEventsRequest {
        requests,
        mode: mode.into(),
    }
}

#[track_caller]
fn is_taken_by_clients(end: &End) {
    assert!(
        end.metadata_bytes() < METADATA_BYTES_MAX,
        "{} bytes",
        end.metadata_bytes()
    );
}

#[tokio::test]
async fn a_create_names_all_its_bad_fields_at_once() {
    let server = TestServer::start().await;
    let result = server.events().create_event(all_bad()).await;
    assert_eq!(sorted(bad_fields(result)), ALL);
}

#[tokio::test]
async fn an_update_names_all_its_bad_fields_at_once() {
    let server = TestServer::start().await;
    let request = UpdateEventRequest {
        event_id: String::new(),
        spirit_id: Some(String::new()),
        meta_summary: Some("\0".to_owned()),
        importance_score: Some(-1.0),
        meta: Some(object([("\0", number(1.0))])),
        role: Some(String::new()),
        author: Some(String::new()),
        is_deleted: None,
        update_mask: Some(FieldMask {
            paths: vec!["is_deleted".to_owned(), "content".to_owned(), "*".to_owned()],
        }),
        meta_mode: 7,
        expected_revision: Some(-1),
    };
    let fields = bad_fields(server.events().update_event(request).await);
    assert_eq!(
        sorted(fields),
        [
            "author",
            "event_id",
            "expected_revision",
            "importance_score",
            "is_deleted",
            "meta",
            "meta_mode",
            "meta_summary",
            "role",
            "spirit_id",
            "update_mask",
        ]
    );
}

#[tokio::test]
async fn a_list_names_all_its_bad_fields_at_once() {
    let server = TestServer::start().await;
    let bad_time = Some(Timestamp {
        seconds: 0,
        nanos: -1,
    });
    let filter = EventFilter {
        event_types: vec![String::new(), "ok".to_owned(), "\0".to_owned()],
        roles: vec!["x".to_owned(); 101],
        min_importance: Some(f64::NAN),
        occurred_from: bad_time,
        occurred_until: bad_time,
        meta_contains: Some(object([("k", number(f64::INFINITY))])),
        include_deleted: false,
    };
    let request = ListEventsRequest {
        spirit_id: String::new(),
        session_id: Some(String::new()),
        filter: Some(filter),
        page_size: -1,
        page_token: "x".to_owned(),
        offset: 1,
        order: 9,
        view: 9,
    };
    let fields = bad_fields(server.events().list_events(request).await);
    assert_eq!(
        sorted(fields),
        [
            "filter.event_types[0]",
            "filter.event_types[2]",
            "filter.meta_contains",
            "filter.min_importance",
            "filter.occurred_from",
            "filter.occurred_until",
            "filter.roles",
            "offset",
            "order",
            "page_size",
            "session_id",
            "spirit_id",
            "view",
        ]
    );
}

#[tokio::test]
async fn a_spirit_names_all_its_bad_fields_at_once() {
    let server = TestServer::start().await;
    let request = CreateSpiritRequest {
        name: String::new(),
        description: Some("\0".to_owned()),
        meta: Some(object([("", number(f64::NAN))])),
    };
    let fields = bad_fields(server.spirits().create_spirit(request).await);
    assert_eq!(sorted(fields), ["description", "meta", "name"]);
}

#[tokio::test]
async fn a_batch_names_bad_fields_below_their_items_in_either_mode() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let requests = vec![event(&spirit_id), all_bad(), event(&spirit_id)];
    let expected = ALL.map(|field| format!("requests[1].{field}"));
    let mut events = server.events();
    let atomic = events
        .batch_create_events(batch(BatchMode::Atomic, requests.clone()))
        .await;
    assert_eq!(sorted(bad_fields(atomic)), expected);
    let partial = events
        .batch_create_events(batch(BatchMode::Partial, requests))
        .await;
    let results = partial.unwrap().into_inner().results;
    let Some(Item::Error(error)) = &results[1].result else {
        panic!("the bad item was stored")
    };
    let violations = error.get_details_bad_request().unwrap().field_violations;
    let fields = violations.into_iter().map(|violation| violation.field).collect();
    assert_eq!(sorted(fields), expected);
}

#[tokio::test]
async fn an_error_lists_20_bad_fields_and_says_how_many_more_there_are() {
    let server = TestServer::start().await;
    let bad = |_| CreateEventRequest {
        event_type: String::new(),
        ..event("01890a5d-ac96-774b-bcce-b302099a8057")
    };
    for (count, listed, more) in [
        (20, 20, None),
        (21, 21, Some("1 more")),
        (500, 21, Some("480 more")),
    ] {
        let request = batch(BatchMode::Atomic, (0..count).map(bad).collect());
        let result = server.events().batch_create_events(request).await;
        let status = refused(result, Code::InvalidArgument, "INVALID_FIELD");
        let violations = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!(violations.len(), listed, "of {count}");
        assert_eq!(violations[19].field, "requests[19].event_type");
        if let Some(more) = more {
            assert!(violations[20].description.starts_with(more), "{violations:?}");
        }
    }
}

#[tokio::test]
async fn the_worst_of_bad_fields_are_no_more_metadata_than_clients_take() {
    let server = TestServer::start().await;
    let raw = RawClient::connect(server.addr).await;
    let end = raw.call(CREATE, &[], encoded(&all_bad())).await;
    is_taken_by_clients(&end);
    assert_eq!(
        sorted(bad_fields(end.error::<()>())),
        ALL,
        "and nothing had to be left out"
    );

    // The last items, whose paths are longest.
    let mut requests = vec![event("01890a5d-ac96-774b-bcce-b302099a8057"); 1_000];
    requests[990..].fill(all_bad());
    let end = raw
        .call(BATCH, &[], encoded(&batch(BatchMode::Atomic, requests)))
        .await;
    is_taken_by_clients(&end);
    let fields = bad_fields(end.error::<()>());
    assert_eq!(fields.len(), 21, "the promised 20 and the count of the others");

    let paths = (0..10_000).map(|n| format!("{n}{}", "🐘".repeat(20))).collect();
    let request = UpdateEventRequest {
        update_mask: Some(FieldMask { paths }),
        ..UpdateEventRequest::default()
    };
    let end = raw.call(UPDATE, &[], encoded(&request)).await;
    is_taken_by_clients(&end);
    assert_eq!(bad_fields(end.error::<()>()), ["event_id", "update_mask"]);

    let filter = EventFilter {
        event_types: vec!["\0".repeat(101); 100],
        roles: vec!["\0".repeat(101); 100],
        ..EventFilter::default()
    };
    let request = ListEventsRequest {
        filter: Some(filter),
        ..ListEventsRequest::default()
    };
    is_taken_by_clients(&raw.call(LIST, &[], encoded(&request)).await);
}

#[tokio::test]
async fn the_worst_of_refused_batches_is_no_more_metadata_than_clients_take() {
    let server = TestServer::start().await;
    let raw = RawClient::connect(server.addr).await;
    let spirit_id = server.spirit().await;
    let key = "🐘".repeat(255);
    let taken = encoded(&keyed(&spirit_id, &key));
    raw.call(CREATE, &[], taken.clone()).await;
    let end = raw.call(CREATE, &[], taken).await;
    is_taken_by_clients(&end);
    let status = refused(end.error::<()>(), Code::AlreadyExists, "DUPLICATE_EVENT");
    assert_eq!(
        metadata(&status, "dedupe_key"),
        key,
        "whole, so that it can be looked up"
    );

    let all = batch(BatchMode::Atomic, vec![keyed(&spirit_id, &key); 1_000]);
    let end = raw.call(BATCH, &[], encoded(&all)).await;
    is_taken_by_clients(&end);
    let status = refused(end.error::<()>(), Code::AlreadyExists, "DUPLICATE_EVENT");
    assert_eq!(metadata(&status, "dedupe_key"), key);
    assert_eq!(metadata(&status, "failed_count"), "1000");
    assert!(metadata(&status, "failed_indexes").starts_with("0,1,2,3,"));

    let all = batch(BatchMode::Partial, vec![keyed(&spirit_id, &key); 1_000]);
    let results = server
        .events()
        .batch_create_events(all)
        .await
        .unwrap()
        .into_inner()
        .results;
    assert_eq!(results.len(), 1_000);
    for result in results {
        let Some(Item::Error(error)) = result.result else {
            panic!("a duplicate was stored")
        };
        assert_eq!(
            error.get_details_error_info().unwrap().metadata["dedupe_key"],
            key
        );
    }
}
