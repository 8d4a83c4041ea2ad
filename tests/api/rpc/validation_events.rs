//! Validation of the requests that write events: every field at its limit and just past it.

use elephantasm_events::grpc::pb::{
    BatchCreateEventsRequest, CreateEventRequest, RestoreEventRequest, SoftDeleteEventRequest,
    UpdateEventRequest,
};
use prost_types::FieldMask;

use crate::support::builders::{create, event, object, text};
use crate::support::harness::{TestServer, small_limits};
use crate::support::validation::{
    UNKNOWN_ID, ValidationCases, at_least, bytes, chars, enums, meta_of_bytes, metas, scores, times, uuids,
};

const KIB: usize = 1024;

#[tokio::test]
async fn create_event_enforces_every_field_limit() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut events = server.events();
    ValidationCases::new(event(&spirit_id))
        .field("event_type", chars(100), |r, v| r.event_type = v)
        .field("content", bytes(KIB * KIB), |r, v| r.content = Some(v))
        .case("no content", &["content"], |r| r.content = None)
        .field("meta_summary", bytes(16 * KIB), |r, v| r.meta_summary = Some(v))
        .field("occurred_at", times(), |r, v| r.occurred_at = Some(v))
        .field("session_id", chars(255), |r, v| r.session_id = Some(v))
        .field("role", chars(50), |r, v| r.role = Some(v))
        .field("author", chars(255), |r, v| r.author = Some(v))
        .field("meta", metas(), |r, v| r.meta = Some(v))
        .field("source_uri", chars(2_048), |r, v| r.source_uri = Some(v))
        .field("dedupe_key", chars(255), |r, v| r.dedupe_key = Some(v))
        .field("importance_score", scores(), |r, v| r.importance_score = Some(v))
        .field("on_duplicate", enums(2), |r, v| r.on_duplicate = v)
        .field("reply_view", enums(2), |r, v| r.reply_view = v)
        .run(async |request| events.create_event(request).await.map(drop))
        .await;
}

#[tokio::test]
async fn the_byte_limits_of_content_and_meta_are_settings() {
    let server = TestServer::start_with(small_limits).await;
    let spirit_id = server.spirit().await;
    let mut events = server.events();
    ValidationCases::new(event(&spirit_id))
        .field("content", bytes(1_000), |r, v| r.content = Some(v))
        .case("meta of 200 bytes", &[], |r| r.meta = Some(meta_of_bytes(200)))
        .case("meta of 201 bytes", &["meta"], |r| {
            r.meta = Some(meta_of_bytes(201));
        })
        .run(async |request| events.create_event(request).await.map(drop))
        .await;
}

#[tokio::test]
async fn create_event_validates_spirit_id_and_guards() {
    let server = TestServer::start().await;
    let mut events = server.events();
    ValidationCases::new(event(UNKNOWN_ID))
        .field("spirit_id", uuids(), |r, v| r.spirit_id = v)
        .field("expected_last_sequence", at_least(0, i64::MIN), |r, v| {
            r.expected_last_sequence = Some(v);
        })
        .field("expected_session_last_sequence", at_least(0, i64::MIN), |r, v| {
            r.session_id = Some("s".to_owned());
            r.expected_session_last_sequence = Some(v);
        })
        .run(async |request| events.create_event(request).await.map(drop))
        .await;
}

#[tokio::test]
async fn a_batch_must_have_1_to_1000_items_and_a_known_mode() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut events = server.events();
    let batch = |items: usize| vec![event(&spirit_id); items];
    let base = BatchCreateEventsRequest {
        requests: batch(1),
        mode: 0,
    };
    ValidationCases::new(base)
        .case("no item", &["requests"], |r| r.requests.clear())
        .case("1,000 items", &[], |r| r.requests = batch(1_000))
        .case("1,001 items", &["requests"], |r| r.requests = batch(1_001))
        .field("mode", enums(2), |r, v| r.mode = v)
        .case("both bad", &["mode", "requests"], |r| {
            r.mode = 3;
            r.requests.clear();
        })
        .case(
            "one bad item among valid ones",
            &["requests[2].session_id"],
            |r| {
                r.requests = batch(4);
                r.requests[2].session_id = Some(String::new());
            },
        )
        .run(async |request| events.batch_create_events(request).await.map(drop))
        .await;
}

#[tokio::test]
async fn update_event_enforces_every_field_limit() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut events = server.events();
    let base = UpdateEventRequest {
        event_id: create(&mut events, event(&spirit_id)).await.id,
        ..UpdateEventRequest::default()
    };
    ValidationCases::new(base)
        .field("meta_summary", bytes(16 * KIB), |r, v| r.meta_summary = Some(v))
        .field("importance_score", scores(), |r, v| r.importance_score = Some(v))
        .field("meta", metas(), |r, v| r.meta = Some(v))
        .field("role", chars(50), |r, v| r.role = Some(v))
        .field("author", chars(255), |r, v| r.author = Some(v))
        .field("meta_mode", enums(2), |r, v| r.meta_mode = v)
        .case("a bad value outside the mask", &["role"], |r| {
            r.role = Some(String::new());
            r.update_mask = Some(mask(&["author"]));
        })
        .run(async |request| events.update_event(request).await.map(drop))
        .await;
}

fn mask(paths: &[&str]) -> FieldMask {
    FieldMask {
        paths: paths.iter().map(|path| (*path).to_owned()).collect(),
    }
}

#[tokio::test]
async fn an_update_mask_accepts_only_names_of_mutable_fields() {
    let server = TestServer::start().await;
    let mut events = server.events();
    let base = UpdateEventRequest {
        event_id: UNKNOWN_ID.to_owned(),
        ..UpdateEventRequest::default()
    };
    let mut cases = ValidationCases::new(base)
        .case("an empty mask", &[], |r| r.update_mask = Some(mask(&[])))
        .case("every mutable field, one repeated", &[], |r| {
            r.is_deleted = Some(true);
            r.update_mask = Some(mask(&[
                "meta_summary",
                "importance_score",
                "meta",
                "role",
                "author",
                "is_deleted",
                "role",
            ]));
        })
        .case("is_deleted without a value", &["is_deleted"], |r| {
            r.update_mask = Some(mask(&["is_deleted"]));
        })
        .case("several bad paths", &["update_mask"], |r| {
            r.update_mask = Some(mask(&["*", "x", "y", "z"]));
        });
    for bad in [
        "*",
        "",
        "content",
        "spirit_id",
        "event_id",
        "event_type",
        "occurred_at",
        "session_id",
        "dedupe_key",
        "source_uri",
        "revision",
        "update_mask",
        "expected_revision",
        "meta_mode",
        "meta.key",
        "metaSummary",
        "event.role",
        "role\0",
        " role",
        "ROLE",
    ] {
        cases = cases.case(bad, &["update_mask"], |r| {
            r.update_mask = Some(mask(&["role", bad]));
        });
    }
    cases
        .run(async |request| events.update_event(request).await.map(drop))
        .await;
}

#[tokio::test]
async fn event_updates_deletes_and_restores_validate_ids_and_expected_revision() {
    let server = TestServer::start().await;
    let mut events = server.events();
    let event_id = UNKNOWN_ID.to_owned();
    let update = UpdateEventRequest {
        event_id: event_id.clone(),
        ..UpdateEventRequest::default()
    };
    ValidationCases::new(update)
        .field("event_id", uuids(), |r, v| r.event_id = v)
        .field("spirit_id", uuids(), |r, v| r.spirit_id = Some(v))
        .field("expected_revision", at_least(1, i64::MIN), |r, v| {
            r.expected_revision = Some(v);
        })
        .run(async |request| events.update_event(request).await.map(drop))
        .await;
    let delete = SoftDeleteEventRequest {
        event_id: event_id.clone(),
        ..SoftDeleteEventRequest::default()
    };
    ValidationCases::new(delete)
        .field("event_id", uuids(), |r, v| r.event_id = v)
        .field("spirit_id", uuids(), |r, v| r.spirit_id = Some(v))
        .field("expected_revision", at_least(1, i64::MIN), |r, v| {
            r.expected_revision = Some(v);
        })
        .run(async |request| events.soft_delete_event(request).await.map(drop))
        .await;
    let restore = RestoreEventRequest {
        event_id,
        ..RestoreEventRequest::default()
    };
    ValidationCases::new(restore)
        .field("event_id", uuids(), |r, v| r.event_id = v)
        .field("spirit_id", uuids(), |r, v| r.spirit_id = Some(v))
        .field("expected_revision", at_least(1, i64::MIN), |r, v| {
            r.expected_revision = Some(v);
        })
        .run(async |request| events.restore_event(request).await.map(drop))
        .await;
}

#[tokio::test]
async fn the_result_of_a_merge_patch_must_fit_the_byte_limit_of_meta() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut events = server.events();
    // `{"k":"…","p":"<6 bytes>"}` has 13 bytes more than `{"k":"…"}`.
    let create_with_meta = |bytes| CreateEventRequest {
        meta: Some(meta_of_bytes(bytes)),
        ..event(&spirit_id)
    };
    for (description, bytes, bad) in [
        ("exactly the limit", 64 * KIB - 13, &[][..]),
        ("one byte over", 64 * KIB - 12, &["meta"]),
    ] {
        let event_id = create(&mut events, create_with_meta(bytes)).await.id;
        let patch = object([("p", text("123456"))]);
        let base = UpdateEventRequest {
            event_id,
            meta_mode: 2,
            ..UpdateEventRequest::default()
        };
        ValidationCases::new(base)
            .case(description, bad, |r| r.meta = Some(patch.clone()))
            .run(async |request| events.update_event(request).await.map(drop))
            .await;
    }
}
