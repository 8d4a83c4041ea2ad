//! `CreateSpirit`, `GetSpirit`, `SoftDeleteSpirit`, `RestoreSpirit` and `CountSpirits`.

use elephantasm_events::grpc::pb::{
    CountSpiritsRequest, CreateSpiritRequest, GetEventRequest, GetSpiritRequest, RestoreSpiritRequest,
    SoftDeleteSpiritRequest, Spirit,
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::builders::{
    bad_fields, create, create_spirit, event, list, metadata, number, object, refused, text,
};
use crate::support::harness::{TestServer, small_limits};
use crate::support::validation::UNKNOWN_ID;

async fn get(server: &TestServer, spirit_id: &str, include_deleted: bool) -> Result<Spirit, Status> {
    let request = GetSpiritRequest {
        spirit_id: spirit_id.to_owned(),
        include_deleted,
    };
    let response = server.spirits().get_spirit(request).await?;
    Ok(response.into_inner().spirit.unwrap())
}

async fn delete(server: &TestServer, spirit_id: &str, revision: Option<i64>) -> Result<Spirit, Status> {
    let request = SoftDeleteSpiritRequest {
        spirit_id: spirit_id.to_owned(),
        expected_revision: revision,
    };
    let response = server.spirits().soft_delete_spirit(request).await?;
    Ok(response.into_inner().spirit.unwrap())
}

async fn restore(server: &TestServer, spirit_id: &str, revision: Option<i64>) -> Result<Spirit, Status> {
    let request = RestoreSpiritRequest {
        spirit_id: spirit_id.to_owned(),
        expected_revision: revision,
    };
    let response = server.spirits().restore_spirit(request).await?;
    Ok(response.into_inner().spirit.unwrap())
}

async fn count(server: &TestServer, include_deleted: bool) -> i64 {
    let request = CountSpiritsRequest { include_deleted };
    let response = server.spirits().count_spirits(request).await.unwrap();
    response.into_inner().count
}

#[tokio::test]
async fn a_created_spirit_is_returned_as_sent() {
    let server = TestServer::start().await;
    let request = CreateSpiritRequest {
        name: "Ünï 🐘".to_owned(),
        description: Some(String::new()),
        meta: Some(object([("n", number(3.0))])),
        ..CreateSpiritRequest::default()
    };
    let created = create_spirit(&server, request).await;
    assert_eq!(
        (created.name(), created.description.as_deref()),
        ("Ünï 🐘", Some(""))
    );
    assert_eq!(created.meta, Some(object([("n", number(3.0))])));
    assert_eq!((created.last_sequence, created.revision), (0, 1));
    assert_eq!(created.created_at, created.updated_at);
    assert_eq!((created.is_deleted, created.deleted_at), (false, None));
    assert_eq!(
        get(&server, &created.id.to_uppercase(), false).await.unwrap(),
        created
    );
}

#[tokio::test]
async fn spirit_names_need_not_be_unique_and_meta_defaults_to_an_empty_object() {
    let server = TestServer::start().await;
    let request = CreateSpiritRequest {
        name: "same".to_owned(),
        ..CreateSpiritRequest::default()
    };
    let one = create_spirit(&server, request.clone()).await;
    let other = create_spirit(&server, request).await;
    assert_ne!(one.id, other.id);
    assert_eq!((one.description, one.meta), (None, Some(object([]))));
}

#[tokio::test]
async fn create_spirit_accepts_the_largest_values_and_refuses_larger_ones() {
    let server = TestServer::start_with(small_limits).await;
    // `{"k":"…"}` is 8 bytes longer than its text; é has two bytes.
    let meta = |chars| Some(object([("k", text(&"é".repeat(chars)))]));
    let spirit = |name: String, description: String, meta| CreateSpiritRequest {
        name,
        description: Some(description),
        meta,
        ..CreateSpiritRequest::default()
    };
    let largest = spirit("🐘".repeat(255), "é".repeat(8 * 1024), meta(96));
    create_spirit(&server, largest).await;
    let over = spirit("🐘".repeat(256), "é".repeat(8 * 1024) + "x", meta(97));
    let empty = spirit(String::new(), "\0".to_owned(), Some(object([("\0", text(""))])));
    let nul = spirit(
        "a\0b".to_owned(),
        "\0".to_owned(),
        Some(object([("k", number(f64::NAN))])),
    );
    for (name, request) in [("too large", over), ("empty", empty), ("U+0000", nul)] {
        let fields = bad_fields(server.spirits().create_spirit(request).await);
        assert_eq!(fields, ["name", "description", "meta"], "{name}");
    }
    assert_eq!(count(&server, true).await, 1);
}

#[tokio::test]
async fn new_events_change_only_last_sequence_of_their_spirit() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let before = get(&server, &spirit_id, false).await.unwrap();
    for _ in 0..3 {
        create(&mut server.events(), event(&spirit_id)).await;
    }
    let expected = Spirit {
        last_sequence: 3,
        ..before
    };
    assert_eq!(get(&server, &spirit_id, false).await.unwrap(), expected);
}

#[tokio::test]
async fn a_deleted_spirit_refuses_new_events_and_keeps_old_ones_readable() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut events = server.events();
    let old = create(&mut events, event(&spirit_id)).await;
    let deleted = delete(&server, &spirit_id, None).await.unwrap();
    assert_eq!(
        (deleted.is_deleted, deleted.revision, deleted.last_sequence),
        (true, 2, 1)
    );
    assert_eq!(deleted.deleted_at, deleted.updated_at);

    let status = refused(
        events.create_event(event(&spirit_id)).await,
        Code::NotFound,
        "SPIRIT_NOT_FOUND",
    );
    assert_eq!(
        status.get_details_resource_info().unwrap().resource_name,
        spirit_id
    );
    refused(
        get(&server, &spirit_id, false).await,
        Code::NotFound,
        "SPIRIT_NOT_FOUND",
    );
    assert_eq!(get(&server, &spirit_id, true).await.unwrap(), deleted);
    let listed = events.list_events(list(&spirit_id)).await.unwrap().into_inner();
    assert_eq!(listed.events, std::slice::from_ref(&old));
    let request = GetEventRequest {
        event_id: old.id,
        ..GetEventRequest::default()
    };
    events.get_event(request).await.unwrap();

    let restored = restore(&server, &spirit_id, None).await.unwrap();
    assert_eq!((restored.is_deleted, restored.deleted_at), (false, None));
    let next = create(&mut events, event(&spirit_id)).await;
    assert_eq!(next.sequence, 2, "sequences continue after the restore");
}

#[tokio::test]
async fn repeated_deletes_and_restores_of_a_spirit_change_nothing() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let before = get(&server, &spirit_id, false).await.unwrap();
    assert_eq!(restore(&server, &spirit_id, None).await.unwrap(), before);
    let first = delete(&server, &spirit_id, None).await.unwrap();
    assert_eq!(delete(&server, &spirit_id, None).await.unwrap(), first);
    let restored = restore(&server, &spirit_id, None).await.unwrap();
    assert_eq!(restored.revision, 3);
    assert_eq!(restore(&server, &spirit_id, None).await.unwrap(), restored);
}

#[tokio::test]
async fn deleting_or_restoring_a_spirit_checks_expected_revision_first() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    for result in [
        delete(&server, &spirit_id, Some(2)).await,
        restore(&server, &spirit_id, Some(2)).await,
    ] {
        let status = refused(result, Code::Aborted, "REVISION_MISMATCH");
        assert_eq!(metadata(&status, "expected"), "2");
        assert_eq!(metadata(&status, "actual"), "1");
    }
    delete(&server, &spirit_id, Some(1)).await.unwrap();
    let again = delete(&server, &spirit_id, Some(1)).await;
    refused(again, Code::Aborted, "REVISION_MISMATCH");
    restore(&server, &spirit_id, Some(2)).await.unwrap();
}

#[tokio::test]
async fn unknown_spirit_ids_are_not_found_and_malformed_ones_are_invalid() {
    let server = TestServer::start().await;
    for result in [
        get(&server, UNKNOWN_ID, true).await,
        delete(&server, UNKNOWN_ID, None).await,
        restore(&server, UNKNOWN_ID, None).await,
    ] {
        let status = refused(result, Code::NotFound, "SPIRIT_NOT_FOUND");
        assert_eq!(
            status.get_details_resource_info().unwrap().resource_name,
            UNKNOWN_ID
        );
    }
    for bad in [
        "",
        "x",
        "01890a5dac96774bbcceb302099a8057",
        &format!("{{{UNKNOWN_ID}}}"),
    ] {
        assert_eq!(bad_fields(get(&server, bad, false).await), ["spirit_id"], "{bad}");
        let fields = ["spirit_id", "expected_revision"];
        assert_eq!(bad_fields(delete(&server, bad, Some(0)).await), fields, "{bad}");
        assert_eq!(bad_fields(restore(&server, bad, Some(0)).await), fields, "{bad}");
    }
}

#[tokio::test]
async fn count_spirits_is_exact_with_and_without_deleted_spirits() {
    let server = TestServer::start().await;
    assert_eq!((count(&server, false).await, count(&server, true).await), (0, 0));
    let first = server.spirit().await;
    server.spirit().await;
    server.spirit().await;
    delete(&server, &first, None).await.unwrap();
    assert_eq!((count(&server, false).await, count(&server, true).await), (2, 3));
    restore(&server, &first, None).await.unwrap();
    assert_eq!(count(&server, false).await, 3);
}
