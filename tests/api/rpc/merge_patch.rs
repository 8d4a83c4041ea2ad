//! `UpdateEvent` with `MERGE_PATCH`: RFC 7396 on the stored `meta`, safe under concurrent patches.

use elephantasm_events::grpc::pb::{Event, MetaMode, UpdateEventRequest};
use futures_util::future::join_all;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use tonic::Status;

use crate::support::builders::{bad_fields, create, event, number, object, text};
use crate::support::harness::{TestServer, small_limits};

fn null() -> Value {
    Value {
        kind: Some(Kind::NullValue(0)),
    }
}

fn inner<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value {
        kind: Some(Kind::StructValue(object(fields))),
    }
}

/// Nested objects with this many levels.
fn nested(levels: usize) -> Struct {
    (1..levels).fold(object([]), |child, _| {
        let child = Value {
            kind: Some(Kind::StructValue(child)),
        };
        object([("a", child)])
    })
}

/// Creates an event with this meta.
async fn event_with_meta(server: &TestServer, meta: Struct) -> Event {
    let request = elephantasm_events::grpc::pb::CreateEventRequest {
        meta: Some(meta),
        ..event(&server.spirit().await)
    };
    create(&mut server.events(), request).await
}

/// Applies a merge patch to the event's meta.
async fn patched(server: &TestServer, event: &Event, patch: Struct) -> Result<Event, Status> {
    let request = UpdateEventRequest {
        event_id: event.id.clone(),
        meta: Some(patch),
        meta_mode: MetaMode::MergePatch.into(),
        ..UpdateEventRequest::default()
    };
    let response = server.events().update_event(request).await?;
    Ok(response.into_inner().event.unwrap())
}

#[tokio::test]
async fn a_merge_patch_sets_and_removes_nested_keys_and_replaces_lists() {
    let server = TestServer::start().await;
    let list = |value| Value {
        kind: Some(Kind::ListValue(ListValue { values: vec![value] })),
    };
    let before = event_with_meta(
        &server,
        object([
            ("kept", text("k")),
            ("gone", text("g")),
            ("list", list(number(1.0))),
            ("deep", inner([("kept", number(1.0)), ("gone", number(2.0))])),
            ("null", null()),
        ]),
    )
    .await;
    let patch = object([
        ("gone", null()),
        ("list", list(null())),
        (
            "deep",
            inner([("gone", null()), ("new", inner([("none", null())]))]),
        ),
        ("new", number(3.0)),
    ]);
    let after = patched(&server, &before, patch).await.unwrap();
    let expected = object([
        ("kept", text("k")),
        ("list", list(null())),
        ("deep", inner([("kept", number(1.0)), ("new", inner([]))])),
        ("null", null()),
        ("new", number(3.0)),
    ]);
    assert_eq!(
        after.meta,
        Some(expected),
        "null in the patch removes a key; nulls in lists and in the stored meta stay"
    );
    assert_eq!(after.revision, 2);
}

#[tokio::test]
async fn replace_mode_overwrites_the_whole_meta() {
    let server = TestServer::start().await;
    let before = event_with_meta(&server, object([("a", number(1.0))])).await;
    for mode in [MetaMode::Unspecified, MetaMode::Replace] {
        let meta = object([("b", null()), ("mode", text(mode.as_str_name()))]);
        let request = UpdateEventRequest {
            event_id: before.id.clone(),
            meta: Some(meta.clone()),
            meta_mode: mode.into(),
            ..UpdateEventRequest::default()
        };
        let response = server.events().update_event(request).await.unwrap().into_inner();
        assert_eq!(response.event.unwrap().meta, Some(meta));
    }
}

#[tokio::test]
async fn the_merged_meta_must_stay_within_the_limits_of_meta() {
    let server = TestServer::start_with(small_limits).await;
    // `{"a":"…"}` is 8 bytes longer than its text, `,"b":"…"` is 7 bytes longer.
    let before = event_with_meta(&server, object([("a", text(&"x".repeat(92)))])).await;
    let too_long = object([("b", text(&"y".repeat(94)))]);
    assert_eq!(bad_fields(patched(&server, &before, too_long).await), ["meta"]);
    let longest = object([("b", text(&"y".repeat(93)))]);
    let after = patched(&server, &before, longest).await.unwrap();
    assert_eq!(
        after.meta.unwrap().fields.len(),
        2,
        "200 bytes are within the limit of 200"
    );

    let deepest = event_with_meta(&server, nested(24)).await;
    let sibling = object([("b", number(1.0))]);
    patched(&server, &deepest, sibling).await.unwrap();
    assert_eq!(bad_fields(patched(&server, &deepest, nested(25)).await), ["meta"]);
}

#[tokio::test]
async fn the_limit_of_meta_counts_the_digits_of_merged_numbers_that_are_stored_without_exponent() {
    let server = TestServer::start_with(small_limits).await;
    // `{"a":…}` is 6 bytes longer than its number, `,"b":…` is 5 bytes longer.
    let before = event_with_meta(&server, object([("a", number(1e150))])).await;
    let too_long = object([("b", number(1e38))]);
    assert_eq!(bad_fields(patched(&server, &before, too_long).await), ["meta"]);
    let longest = object([("b", number(1e37))]);
    let after = patched(&server, &before, longest).await.unwrap();
    assert_eq!(
        after.meta,
        Some(object([("a", number(1e150)), ("b", number(1e37))])),
        "200 bytes are within the limit of 200"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_merge_patches_all_take_effect() {
    const WRITERS: usize = 16;
    let server = TestServer::start().await;
    let before = event_with_meta(&server, object([])).await;
    let keys: Vec<String> = (0..WRITERS).map(|writer| format!("key{writer}")).collect();
    let patches = keys
        .iter()
        .map(|key| patched(&server, &before, object([(key.as_str(), text(key))])));
    let mut revisions = Vec::new();
    let mut last = before.clone();
    for result in join_all(patches).await {
        let after = result.unwrap();
        revisions.push(after.revision);
        if after.revision > last.revision {
            last = after;
        }
    }
    revisions.sort_unstable();
    let expected: Vec<i64> = (2..).take(WRITERS).collect();
    assert_eq!(revisions, expected, "each patch gets a revision of its own");
    let fields = last.meta.unwrap().fields;
    for key in &keys {
        assert_eq!(fields[key], text(key));
    }
}
