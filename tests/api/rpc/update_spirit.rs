//! `UpdateSpirit`: masks, merge patches and guards.

use elephantasm_events::grpc::pb::{CreateSpiritRequest, MetaMode, Spirit, UpdateSpiritRequest};
use tonic::{Code, Status};

use crate::support::builders::{
    bad_fields, create, create_spirit, event, mask, metadata, number, object, refused, text,
};
use crate::support::harness::TestServer;

/// Creates a spirit with every field set.
async fn full_spirit(server: &TestServer) -> Spirit {
    let request = CreateSpiritRequest {
        name: "Ada".to_owned(),
        description: Some("described".to_owned()),
        meta: Some(object([("k", text("v"))])),
        retention: None,
    };
    create_spirit(server, request).await
}

fn update(spirit: &Spirit) -> UpdateSpiritRequest {
    UpdateSpiritRequest {
        spirit_id: spirit.id.clone(),
        ..UpdateSpiritRequest::default()
    }
}

async fn updated(server: &TestServer, request: UpdateSpiritRequest) -> Result<Spirit, Status> {
    let response = server.spirits().update_spirit(request).await?;
    Ok(response.into_inner().spirit.unwrap())
}

/// The spirit with `revision` and `updated_at` of its updated version.
fn with_revision_of(spirit: &Spirit, updated: &Spirit) -> Spirit {
    Spirit {
        revision: updated.revision,
        updated_at: updated.updated_at,
        ..spirit.clone()
    }
}

#[tokio::test]
async fn update_spirit_without_a_mask_writes_only_the_present_fields() {
    let server = TestServer::start().await;
    let before = full_spirit(&server).await;
    let request = UpdateSpiritRequest {
        name: Some("Grace".to_owned()),
        ..update(&before)
    };
    let after = updated(&server, request).await.unwrap();
    let expected = Spirit {
        name: Some("Grace".to_owned()),
        ..with_revision_of(&before, &after)
    };
    assert_eq!(after, expected);
    assert_eq!(after.revision, 2);
    assert_ne!(after.updated_at, before.updated_at);
}

#[tokio::test]
async fn update_spirit_with_a_mask_writes_its_fields_and_clears_the_absent_ones() {
    let server = TestServer::start().await;
    let before = full_spirit(&server).await;
    let request = UpdateSpiritRequest {
        name: Some("not in the mask".to_owned()),
        update_mask: mask(&["description", "meta"]),
        ..update(&before)
    };
    let after = updated(&server, request).await.unwrap();
    let expected = Spirit {
        description: None,
        meta: Some(object([])),
        ..with_revision_of(&before, &after)
    };
    assert_eq!(after, expected);
}

#[tokio::test]
async fn update_spirit_refuses_to_clear_required_fields_and_unknown_mask_paths() {
    let server = TestServer::start().await;
    let before = full_spirit(&server).await;
    let request = UpdateSpiritRequest {
        update_mask: mask(&["name", "is_deleted", "description"]),
        ..update(&before)
    };
    assert_eq!(
        bad_fields(updated(&server, request).await),
        ["name", "is_deleted"]
    );
    for path in ["last_sequence", "id", "meta.k", "*", ""] {
        let request = UpdateSpiritRequest {
            update_mask: mask(&[path]),
            ..update(&before)
        };
        assert_eq!(
            bad_fields(updated(&server, request).await),
            ["update_mask"],
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_merge_patch_changes_part_of_a_spirits_meta() {
    let server = TestServer::start().await;
    let before = full_spirit(&server).await;
    let request = UpdateSpiritRequest {
        meta: Some(object([("n", number(1.0))])),
        meta_mode: MetaMode::MergePatch.into(),
        ..update(&before)
    };
    let after = updated(&server, request.clone()).await.unwrap();
    assert_eq!(after.meta, Some(object([("k", text("v")), ("n", number(1.0))])));
    let again = updated(&server, request).await.unwrap();
    assert_eq!(again, after, "the same patch again changes nothing");
}

#[tokio::test]
async fn update_spirit_can_delete_rename_and_restore_a_spirit() {
    let server = TestServer::start().await;
    let before = full_spirit(&server).await;
    let set_deleted = |is_deleted| UpdateSpiritRequest {
        is_deleted: Some(is_deleted),
        ..update(&before)
    };
    let deleted = updated(&server, set_deleted(true)).await.unwrap();
    assert!(deleted.is_deleted && deleted.deleted_at.is_some());
    let request = UpdateSpiritRequest {
        name: Some("Grace".to_owned()),
        ..update(&before)
    };
    let renamed = updated(&server, request).await.unwrap();
    assert_eq!(
        renamed.deleted_at, deleted.deleted_at,
        "the rename keeps the time of the deletion"
    );
    let restored = updated(&server, set_deleted(false)).await.unwrap();
    assert_eq!((restored.is_deleted, restored.revision), (false, 4));
    create(&mut server.events(), event(&before.id)).await;
}

#[tokio::test]
async fn update_spirit_checks_expected_revision_which_events_do_not_change() {
    let server = TestServer::start().await;
    let before = full_spirit(&server).await;
    create(&mut server.events(), event(&before.id)).await;
    let guarded = |revision| UpdateSpiritRequest {
        name: Some("Grace".to_owned()),
        expected_revision: Some(revision),
        ..update(&before)
    };
    let after = updated(&server, guarded(1)).await.unwrap();
    assert_eq!(
        (after.revision, after.last_sequence),
        (2, 1),
        "a new event does not change the revision"
    );
    let status = refused(
        updated(&server, guarded(1)).await,
        Code::Aborted,
        "REVISION_MISMATCH",
    );
    assert_eq!(metadata(&status, "actual"), "2");
    let unknown = UpdateSpiritRequest {
        spirit_id: "01890a5d-ac96-774b-bcce-b302099a8057".to_owned(),
        ..guarded(1)
    };
    refused(
        updated(&server, unknown).await,
        Code::NotFound,
        "SPIRIT_NOT_FOUND",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn spirit_updates_during_ingest_lose_neither_an_update_nor_an_event() {
    const ROUNDS: i64 = 30;
    let server = TestServer::start().await;
    let before = full_spirit(&server).await;
    let ingest = async {
        for _ in 0..ROUNDS {
            create(&mut server.events(), event(&before.id)).await;
        }
    };
    let updates = async {
        for round in 0..ROUNDS {
            let request = UpdateSpiritRequest {
                meta: Some(object([(format!("k{round}").as_str(), number(1.0))])),
                meta_mode: MetaMode::MergePatch.into(),
                ..update(&before)
            };
            updated(&server, request).await.unwrap();
        }
    };
    tokio::join!(ingest, updates);
    let after = updated(&server, update(&before)).await.unwrap();
    assert_eq!((after.last_sequence, after.revision), (ROUNDS, 1 + ROUNDS));
    assert_eq!(after.meta.unwrap().fields.len(), 31);
}
