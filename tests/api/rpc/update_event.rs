//! `UpdateEvent`: masks, guards and updates that change nothing.

use elephantasm_events::grpc::pb::{
    Event, GetEventRequest, MetaMode, SoftDeleteEventRequest, SoftDeleteSpiritRequest, UpdateEventRequest,
};
use prost_types::FieldMask;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::builders::{bad_fields, create, event, mask, metadata, number, object, refused, text};
use crate::support::harness::TestServer;

/// Creates an event with every mutable field set.
async fn full_event(server: &TestServer) -> Event {
    let spirit_id = server.spirit().await;
    let request = elephantasm_events::grpc::pb::CreateEventRequest {
        meta_summary: Some("summary".to_owned()),
        role: Some("user".to_owned()),
        author: Some("Ada".to_owned()),
        importance_score: Some(0.5),
        meta: Some(object([("k", text("v"))])),
        ..event(&spirit_id)
    };
    create(&mut server.events(), request).await
}

fn update(event: &Event) -> UpdateEventRequest {
    UpdateEventRequest {
        event_id: event.id.clone(),
        ..UpdateEventRequest::default()
    }
}

async fn updated(server: &TestServer, request: UpdateEventRequest) -> Result<Event, Status> {
    let response = server.events().update_event(request).await?;
    Ok(response.into_inner().event.unwrap())
}

/// Reads an event by its id, even if it is deleted.
async fn stored(server: &TestServer, event_id: &str) -> Event {
    let request = GetEventRequest {
        event_id: event_id.to_owned(),
        include_deleted: true,
        ..GetEventRequest::default()
    };
    let response = server.events().get_event(request).await.unwrap();
    response.into_inner().event.unwrap()
}

/// The event with `revision` and `updated_at` of its updated version.
fn with_revision_of(event: &Event, updated: &Event) -> Event {
    Event {
        revision: updated.revision,
        updated_at: updated.updated_at,
        ..event.clone()
    }
}

#[tokio::test]
async fn update_event_without_a_mask_writes_only_the_present_fields() {
    let server = TestServer::start().await;
    for update_mask in [None, Some(FieldMask::default())] {
        let before = full_event(&server).await;
        let request = UpdateEventRequest {
            meta_summary: Some(String::new()),
            importance_score: Some(0.0),
            update_mask,
            ..update(&before)
        };
        let after = updated(&server, request).await.unwrap();
        assert_eq!(after.revision, 2);
        assert!(
            (after.updated_at.unwrap().seconds, after.updated_at.unwrap().nanos)
                > (
                    before.updated_at.unwrap().seconds,
                    before.updated_at.unwrap().nanos
                )
        );
        let expected = Event {
            meta_summary: Some(String::new()),
            importance_score: Some(0.0),
            ..with_revision_of(&before, &after)
        };
        assert_eq!(after, expected);
        assert_eq!(stored(&server, &before.id).await, expected);
    }
}

#[tokio::test]
async fn update_event_with_a_mask_writes_its_fields_and_clears_the_absent_ones() {
    let server = TestServer::start().await;
    let before = full_event(&server).await;
    let request = UpdateEventRequest {
        meta_summary: Some("new".to_owned()),
        author: Some("not in the mask".to_owned()),
        is_deleted: Some(true),
        update_mask: mask(&["meta_summary", "importance_score", "role", "meta", "role"]),
        ..update(&before)
    };
    let after = updated(&server, request).await.unwrap();
    let expected = Event {
        meta_summary: Some("new".to_owned()),
        importance_score: None,
        role: None,
        meta: Some(object([])),
        ..with_revision_of(&before, &after)
    };
    assert_eq!(after, expected, "author and is_deleted are not in the mask");
    assert_eq!(stored(&server, &before.id).await, expected);
}

#[tokio::test]
async fn meta_in_the_mask_without_a_value_is_cleared_in_both_modes() {
    let server = TestServer::start().await;
    for mode in [MetaMode::Replace, MetaMode::MergePatch] {
        let before = full_event(&server).await;
        let request = UpdateEventRequest {
            update_mask: mask(&["meta"]),
            meta_mode: mode.into(),
            ..update(&before)
        };
        let after = updated(&server, request).await.unwrap();
        assert_eq!(after.meta, Some(object([])), "{mode:?}");
    }
}

#[tokio::test]
async fn update_event_refuses_mask_paths_that_cannot_be_written() {
    let server = TestServer::start().await;
    let before = full_event(&server).await;
    for (name, path) in [
        ("unknown", "summary"),
        ("immutable", "content"),
        ("immutable", "occurred_at"),
        ("JSON name", "metaSummary"),
        ("set by the service", "revision"),
        ("id of the event", "event_id"),
        ("dotted", "meta.k"),
        ("a star", "*"),
        ("empty", ""),
        ("another case", "Role"),
        ("leading space", " role"),
    ] {
        let request = UpdateEventRequest {
            role: Some("other".to_owned()),
            update_mask: mask(&["role", path]),
            ..update(&before)
        };
        assert_eq!(
            bad_fields(updated(&server, request).await),
            ["update_mask"],
            "{name}"
        );
    }
    assert_eq!(stored(&server, &before.id).await, before);
}

#[tokio::test]
async fn update_event_names_all_bad_values_whether_in_the_mask_or_not() {
    let server = TestServer::start().await;
    let before = full_event(&server).await;
    let request = UpdateEventRequest {
        event_id: "1".to_owned(),
        spirit_id: Some(String::new()),
        meta_summary: Some("x".repeat(16 * 1024 + 1)),
        importance_score: Some(f64::NAN),
        meta: Some(object([("nul", text("\0"))])),
        role: Some(String::new()),
        author: Some("é".repeat(256)),
        is_deleted: None,
        update_mask: mask(&["is_deleted"]),
        meta_mode: 9,
        expected_revision: Some(0),
    };
    let mut fields = bad_fields(updated(&server, request).await);
    fields.sort();
    let expected = [
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
    ];
    assert_eq!(fields, expected);
    assert_eq!(stored(&server, &before.id).await, before);
}

#[tokio::test]
async fn an_update_that_changes_nothing_keeps_revision_and_updated_at() {
    let server = TestServer::start().await;
    let before = full_event(&server).await;
    let same = UpdateEventRequest {
        meta_summary: before.meta_summary.clone(),
        importance_score: before.importance_score,
        meta: before.meta.clone(),
        role: before.role.clone(),
        author: before.author.clone(),
        is_deleted: Some(false),
        ..update(&before)
    };
    let absent_key = UpdateEventRequest {
        meta: Some(object([(
            "absent",
            prost_types::Value {
                kind: Some(prost_types::value::Kind::NullValue(0)),
            },
        )])),
        meta_mode: MetaMode::MergePatch.into(),
        ..update(&before)
    };
    for (name, request) in [
        ("no fields", update(&before)),
        ("the stored values", same),
        ("a patch that removes an absent key", absent_key),
    ] {
        assert_eq!(updated(&server, request).await.unwrap(), before, "{name}");
    }
}

#[tokio::test]
async fn sending_the_same_numbers_in_meta_again_changes_nothing() {
    let server = TestServer::start().await;
    let before = full_event(&server).await;
    for value in [
        1e17,
        -1e17,
        1e300,
        1e-300,
        0.1,
        -0.0,
        9_007_199_254_740_993.0,
        5e-324,
        f64::MAX,
    ] {
        let request = UpdateEventRequest {
            meta: Some(object([("n", number(value)), ("list", text("x"))])),
            ..update(&before)
        };
        let first = updated(&server, request.clone()).await.unwrap();
        assert_eq!(first.meta, request.meta, "{value} is returned unchanged");
        let second = updated(&server, request).await.unwrap();
        assert_eq!(second.revision, first.revision, "{value} counts as unchanged");
    }
}

#[tokio::test]
async fn update_event_checks_expected_revision_even_if_nothing_would_change() {
    let server = TestServer::start().await;
    let before = full_event(&server).await;
    let guarded = |revision, role: &str| UpdateEventRequest {
        role: Some(role.to_owned()),
        expected_revision: Some(revision),
        ..update(&before)
    };
    assert_eq!(updated(&server, guarded(1, "a")).await.unwrap().revision, 2);
    for role in ["a", "b"] {
        let status = refused(
            updated(&server, guarded(1, role)).await,
            Code::Aborted,
            "REVISION_MISMATCH",
        );
        assert_eq!(
            (metadata(&status, "expected"), metadata(&status, "actual")),
            ("1".into(), "2".into())
        );
    }
    assert_eq!(updated(&server, guarded(2, "a")).await.unwrap().revision, 2);
}

#[tokio::test]
async fn expected_revision_lets_exactly_one_of_many_concurrent_updates_succeed() {
    let server = TestServer::start().await;
    let before = full_event(&server).await;
    let updates = (0..8).map(|n| {
        updated(
            &server,
            UpdateEventRequest {
                author: Some(format!("author {n}")),
                expected_revision: Some(1),
                ..update(&before)
            },
        )
    });
    let results = futures_util::future::join_all(updates).await;
    let (succeeded, failed): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!(succeeded.len(), 1);
    for result in failed {
        let status = refused(result, Code::Aborted, "REVISION_MISMATCH");
        assert_eq!(metadata(&status, "actual"), "2");
    }
}

#[tokio::test]
async fn deleted_events_of_deleted_spirits_can_be_updated() {
    let server = TestServer::start().await;
    let before = full_event(&server).await;
    let deletion = SoftDeleteEventRequest {
        event_id: before.id.clone(),
        ..SoftDeleteEventRequest::default()
    };
    server.events().soft_delete_event(deletion).await.unwrap();
    let deletion = SoftDeleteSpiritRequest {
        spirit_id: before.spirit_id().to_owned(),
        ..SoftDeleteSpiritRequest::default()
    };
    server.spirits().soft_delete_spirit(deletion).await.unwrap();
    let request = UpdateEventRequest {
        spirit_id: Some(before.spirit_id().to_uppercase()),
        author: Some("Grace".to_owned()),
        ..update(&before)
    };
    let after = updated(&server, request).await.unwrap();
    assert!(after.is_deleted, "the event stays deleted");
    assert_eq!((after.author(), after.revision), ("Grace", 3));
}

#[tokio::test]
async fn update_event_can_delete_and_restore_an_event() {
    let server = TestServer::start().await;
    let before = full_event(&server).await;
    let set_deleted = |is_deleted| UpdateEventRequest {
        is_deleted: Some(is_deleted),
        update_mask: mask(&["is_deleted"]),
        ..update(&before)
    };
    let deleted = updated(&server, set_deleted(true)).await.unwrap();
    assert!(deleted.is_deleted && deleted.deleted_at.is_some());
    let again = updated(&server, set_deleted(true)).await.unwrap();
    assert_eq!(again, deleted, "deleting again changes nothing");
    let restored = updated(&server, set_deleted(false)).await.unwrap();
    assert_eq!(restored, with_revision_of(&before, &restored));
    assert_eq!(restored.revision, 3);
}

#[tokio::test]
async fn update_event_finds_an_event_only_under_its_own_spirit() {
    let server = TestServer::start().await;
    let before = full_event(&server).await;
    let other = server.spirit().await;
    let foreign = UpdateEventRequest {
        spirit_id: Some(other),
        role: Some("x".to_owned()),
        ..update(&before)
    };
    let unknown = UpdateEventRequest {
        event_id: "01890a5d-ac96-774b-bcce-b302099a8057".to_owned(),
        ..foreign.clone()
    };
    for request in [foreign, unknown] {
        let id = request.event_id.clone();
        let status = refused(updated(&server, request).await, Code::NotFound, "EVENT_NOT_FOUND");
        assert_eq!(status.get_details_resource_info().unwrap().resource_name, id);
    }
    assert_eq!(stored(&server, &before.id).await, before);
}
