//! `UpdateEvent`: masks, guards, edits that change nothing.

use elephantasm_events::grpc::pb::{
    Event, GetEventRequest, MetaMode, SoftDeleteEventRequest, SoftDeleteSpiritRequest, UpdateEventRequest,
};
use prost_types::FieldMask;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::builders::{bad_fields, create, event, mask, metadata, number, object, refused, text};
use crate::support::harness::TestServer;

/// An event with every mutable field set.
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

async fn stored(server: &TestServer, event_id: &str) -> Event {
    let request = GetEventRequest {
        event_id: event_id.to_owned(),
        include_deleted: true,
        ..GetEventRequest::default()
    };
    let response = server.events().get_event(request).await.unwrap();
    response.into_inner().event.unwrap()
}

/// What the edit left as it was, apart from its own marks.
fn with_marks_of(event: &Event, marks: &Event) -> Event {
    Event {
        revision: marks.revision,
        updated_at: marks.updated_at,
        ..event.clone()
    }
}

#[tokio::test]
async fn without_a_mask_the_present_fields_are_written_and_all_others_kept() {
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
            ..with_marks_of(&before, &after)
        };
        assert_eq!(after, expected);
        assert_eq!(stored(&server, &before.id).await, expected);
    }
}

#[tokio::test]
async fn a_mask_writes_exactly_its_fields_and_clears_the_absent_ones() {
    let server = TestServer::start().await;
    let before = full_event(&server).await;
    let request = UpdateEventRequest {
        meta_summary: Some("new".to_owned()),
        author: Some("not listed".to_owned()),
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
        ..with_marks_of(&before, &after)
    };
    assert_eq!(after, expected, "author and is_deleted were not listed");
    assert_eq!(stored(&server, &before.id).await, expected);
}

#[tokio::test]
async fn a_listed_meta_that_is_absent_is_cleared_in_both_modes() {
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
async fn paths_of_a_mask_that_cannot_be_written_are_refused() {
    let server = TestServer::start().await;
    let before = full_event(&server).await;
    for (name, path) in [
        ("unknown", "summary"),
        ("immutable", "content"),
        ("immutable", "occurred_at"),
        ("its name in JSON", "metaSummary"),
        ("set by the service", "revision"),
        ("names the event", "event_id"),
        ("dotted", "meta.k"),
        ("a star", "*"),
        ("empty", ""),
        ("another case", "Role"),
        ("space", " role"),
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
async fn bad_values_are_named_all_at_once_whether_listed_or_not() {
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
async fn an_edit_that_changes_nothing_keeps_revision_and_time() {
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
        ("nothing given", update(&before)),
        ("the stored values", same),
        ("a patch that removes what is not there", absent_key),
    ] {
        assert_eq!(updated(&server, request).await.unwrap(), before, "{name}");
    }
}

#[tokio::test]
async fn meta_of_any_numbers_is_the_same_when_sent_again() {
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
        assert_eq!(first.meta, request.meta, "{value} comes back");
        let second = updated(&server, request).await.unwrap();
        assert_eq!(second.revision, first.revision, "{value} is no change");
    }
}

#[tokio::test]
async fn the_expected_revision_is_checked_also_when_nothing_would_change() {
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
async fn the_expected_revision_lets_exactly_one_of_many_racers_in() {
    let server = TestServer::start().await;
    let before = full_event(&server).await;
    let racers = (0..8).map(|n| {
        updated(
            &server,
            UpdateEventRequest {
                author: Some(format!("racer {n}")),
                expected_revision: Some(1),
                ..update(&before)
            },
        )
    });
    let results = futures_util::future::join_all(racers).await;
    let (winners, losers): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!(winners.len(), 1);
    for loser in losers {
        let status = refused(loser, Code::Aborted, "REVISION_MISMATCH");
        assert_eq!(metadata(&status, "actual"), "2");
    }
}

#[tokio::test]
async fn deleted_events_and_events_of_deleted_spirits_can_be_edited() {
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
    assert!(after.is_deleted, "it stays deleted");
    assert_eq!((after.author(), after.revision), ("Grace", 3));
}

#[tokio::test]
async fn the_mark_can_be_set_and_taken_away_by_an_update() {
    let server = TestServer::start().await;
    let before = full_event(&server).await;
    let marked = |is_deleted| UpdateEventRequest {
        is_deleted: Some(is_deleted),
        update_mask: mask(&["is_deleted"]),
        ..update(&before)
    };
    let deleted = updated(&server, marked(true)).await.unwrap();
    assert!(deleted.is_deleted && deleted.deleted_at.is_some());
    let again = updated(&server, marked(true)).await.unwrap();
    assert_eq!(again, deleted, "the first deletion stands");
    let restored = updated(&server, marked(false)).await.unwrap();
    assert_eq!(restored, with_marks_of(&before, &restored));
    assert_eq!(restored.revision, 3);
}

#[tokio::test]
async fn an_event_is_found_only_under_its_own_spirit() {
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
