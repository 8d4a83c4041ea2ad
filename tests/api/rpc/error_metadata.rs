//! Errors name all bad fields at once, and their metadata stays below the limit of gRPC clients.

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

/// Limit for headers and trailers of an error; clients drop larger ones.
const METADATA_BYTES_MAX: usize = 6 * 1024;
const CREATE: &str = "/elephantasm.events.v1.EventService/CreateEvent";
const BATCH: &str = "/elephantasm.events.v1.EventService/BatchCreateEvents";
const LIST: &str = "/elephantasm.events.v1.EventService/ListEvents";
const UPDATE: &str = "/elephantasm.events.v1.EventService/UpdateEvent";

/// A create in which every field is bad.
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
        expected_session_last_sequence: Some(-1),
        reply_view: 9,
    }
}

/// Fields of [`all_bad`].
const ALL_FIELDS: [&str; 16] = [
    "author",
    "content",
    "dedupe_key",
    "event_type",
    "expected_last_sequence",
    "expected_session_last_sequence",
    "importance_score",
    "meta",
    "meta_summary",
    "occurred_at",
    "on_duplicate",
    "reply_view",
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
fn assert_within_metadata_limit(end: &End) {
    assert!(
        end.metadata_bytes() < METADATA_BYTES_MAX,
        "{} bytes",
        end.metadata_bytes()
    );
}

#[tokio::test]
async fn create_event_names_all_bad_fields_at_once() {
    let server = TestServer::start().await;
    let result = server.events().create_event(all_bad()).await;
    assert_eq!(sorted(bad_fields(result)), ALL_FIELDS);
}

#[tokio::test]
async fn update_event_names_all_bad_fields_at_once() {
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
async fn list_events_names_all_bad_fields_at_once() {
    let server = TestServer::start().await;
    let bad_time = Some(Timestamp {
        seconds: 0,
        nanos: -1,
    });
    let filter = EventFilter {
        event_types: vec![String::new(), "ok".to_owned(), "\0".to_owned()],
        roles: vec!["x".to_owned(); 101],
        authors: vec!["x".to_owned(); 101],
        min_importance: Some(f64::NAN),
        occurred_from: bad_time,
        occurred_until: bad_time,
        meta_contains: Some(object([("k", number(f64::INFINITY))])),
        meta_matches: Some("$.k".to_owned()),
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
        after_sequence: Some(1),
        content_bytes_max: Some(-1),
    };
    let fields = bad_fields(server.events().list_events(request).await);
    assert_eq!(
        sorted(fields),
        [
            "after_sequence",
            "content_bytes_max",
            "filter.authors",
            "filter.event_types[0]",
            "filter.event_types[2]",
            "filter.meta_contains",
            "filter.meta_matches",
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
async fn create_spirit_names_all_bad_fields_at_once() {
    let server = TestServer::start().await;
    let request = CreateSpiritRequest {
        name: String::new(),
        description: Some("\0".to_owned()),
        meta: Some(object([("", number(f64::NAN))])),
        ..CreateSpiritRequest::default()
    };
    let fields = bad_fields(server.spirits().create_spirit(request).await);
    assert_eq!(sorted(fields), ["description", "meta", "name"]);
}

#[tokio::test]
async fn a_batch_prefixes_bad_fields_with_their_item_in_both_modes() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let requests = vec![event(&spirit_id), all_bad(), event(&spirit_id)];
    let expected = ALL_FIELDS.map(|field| format!("requests[1].{field}"));
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
async fn an_error_lists_20_bad_fields_and_counts_the_rest() {
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
async fn errors_with_many_bad_fields_stay_below_the_metadata_limit_of_clients() {
    let server = TestServer::start().await;
    let raw = RawClient::connect(server.addr).await;
    let end = raw.call(CREATE, &[], encoded(&all_bad())).await;
    assert_within_metadata_limit(&end);
    assert_eq!(
        sorted(bad_fields(end.error::<()>())),
        ALL_FIELDS,
        "no field is left out"
    );

    // The last items are bad, since their paths are longest.
    let mut requests = vec![event("01890a5d-ac96-774b-bcce-b302099a8057"); 1_000];
    requests[990..].fill(all_bad());
    let end = raw
        .call(BATCH, &[], encoded(&batch(BatchMode::Atomic, requests)))
        .await;
    assert_within_metadata_limit(&end);
    let fields = bad_fields(end.error::<()>());
    assert_eq!(fields.len(), 21, "20 fields and the count of the rest");

    let paths = (0..10_000).map(|n| format!("{n}{}", "🐘".repeat(20))).collect();
    let request = UpdateEventRequest {
        update_mask: Some(FieldMask { paths }),
        ..UpdateEventRequest::default()
    };
    let end = raw.call(UPDATE, &[], encoded(&request)).await;
    assert_within_metadata_limit(&end);
    assert_eq!(bad_fields(end.error::<()>()), ["event_id", "update_mask"]);

    let filter = EventFilter {
        event_types: vec!["\0".repeat(101); 100],
        roles: vec!["\0".repeat(101); 100],
        authors: vec!["\0".repeat(256); 100],
        meta_matches: Some("🐘".repeat(1_000)),
        ..EventFilter::default()
    };
    let request = ListEventsRequest {
        filter: Some(filter),
        ..ListEventsRequest::default()
    };
    assert_within_metadata_limit(&raw.call(LIST, &[], encoded(&request)).await);
}

#[tokio::test]
async fn errors_of_large_refused_batches_stay_below_the_metadata_limit_of_clients() {
    let server = TestServer::start().await;
    let raw = RawClient::connect(server.addr).await;
    let spirit_id = server.spirit().await;
    let key = "🐘".repeat(255);
    let taken = encoded(&keyed(&spirit_id, &key));
    raw.call(CREATE, &[], taken.clone()).await;
    let end = raw.call(CREATE, &[], taken).await;
    assert_within_metadata_limit(&end);
    let status = refused(end.error::<()>(), Code::AlreadyExists, "DUPLICATE_EVENT");
    assert_eq!(
        metadata(&status, "dedupe_key"),
        key,
        "the key is complete, so that it can be looked up"
    );

    let duplicates = batch(BatchMode::Atomic, vec![keyed(&spirit_id, &key); 1_000]);
    let end = raw.call(BATCH, &[], encoded(&duplicates)).await;
    assert_within_metadata_limit(&end);
    let status = refused(end.error::<()>(), Code::AlreadyExists, "DUPLICATE_EVENT");
    assert_eq!(metadata(&status, "dedupe_key"), key);
    assert_eq!(metadata(&status, "failed_count"), "1000");
    assert!(metadata(&status, "failed_indexes").starts_with("0,1,2,3,"));

    let duplicates = batch(BatchMode::Partial, vec![keyed(&spirit_id, &key); 1_000]);
    let results = server
        .events()
        .batch_create_events(duplicates)
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
