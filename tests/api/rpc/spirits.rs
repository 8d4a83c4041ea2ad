//! The life of a spirit: created, read, deleted, restored, counted.

use elephantasm_events::grpc::pb::{
    CountSpiritsRequest, CreateSpiritRequest, GetEventRequest, GetSpiritRequest, RestoreSpiritRequest,
    SoftDeleteSpiritRequest, Spirit,
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::builders::{
    bad_fields, create, event, list, metadata, named, number, object, refused, text,
};
use crate::support::harness::{TestServer, small_limits};

const UNKNOWN: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

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
async fn a_spirit_comes_back_as_it_was_sent() {
    let server = TestServer::start().await;
    let request = CreateSpiritRequest {
        name: "Ünï 🐘".to_owned(),
        description: Some(String::new()),
        meta: Some(object([("n", number(3.0))])),
    };
    let created = named(&server, request).await;
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
async fn absent_meta_is_an_empty_object_and_names_need_not_be_unique() {
    let server = TestServer::start().await;
    let request = CreateSpiritRequest {
        name: "same".to_owned(),
        ..CreateSpiritRequest::default()
    };
    let one = named(&server, request.clone()).await;
    let other = named(&server, request).await;
    assert_ne!(one.id, other.id);
    assert_eq!((one.description, one.meta), (None, Some(object([]))));
}

#[tokio::test]
async fn bounds_of_a_spirit_are_exact() {
    let server = TestServer::start_with(small_limits).await;
    // {"k":"…"} is 8 bytes longer than its text; é is two bytes.
    let meta = |chars| Some(object([("k", text(&"é".repeat(chars)))]));
    let spirit = |name: String, description: String, meta| CreateSpiritRequest {
        name,
        description: Some(description),
        meta,
    };
    let largest = spirit("🐘".repeat(255), "é".repeat(8 * 1024), meta(96));
    named(&server, largest).await;
    let over = spirit("🐘".repeat(256), "é".repeat(8 * 1024) + "x", meta(97));
    let empty = spirit(String::new(), "\0".to_owned(), Some(object([("\0", text(""))])));
    let nul = spirit(
        "a\0b".to_owned(),
        "\0".to_owned(),
        Some(object([("k", number(f64::NAN))])),
    );
    for (name, request) in [("over", over), ("empty", empty), ("U+0000", nul)] {
        let fields = bad_fields(server.spirits().create_spirit(request).await);
        assert_eq!(fields, ["name", "description", "meta"], "{name}");
    }
    assert_eq!(count(&server, true).await, 1);
}

#[tokio::test]
async fn new_events_move_last_sequence_alone() {
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
async fn a_deleted_spirit_refuses_new_events_and_keeps_the_old_ones_readable() {
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
    assert_eq!(next.sequence, 2, "the sequence goes on");
}

#[tokio::test]
async fn repeating_a_deletion_or_restoration_changes_nothing() {
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
async fn deletions_and_restorations_check_the_expected_revision_first() {
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
async fn unknown_and_malformed_ids_are_told_apart() {
    let server = TestServer::start().await;
    for result in [
        get(&server, UNKNOWN, true).await,
        delete(&server, UNKNOWN, None).await,
        restore(&server, UNKNOWN, None).await,
    ] {
        let status = refused(result, Code::NotFound, "SPIRIT_NOT_FOUND");
        assert_eq!(status.get_details_resource_info().unwrap().resource_name, UNKNOWN);
    }
    for bad in [
        "",
        "x",
        "01890a5dac96774bbcceb302099a8057",
        &format!("{{{UNKNOWN}}}"),
    ] {
        assert_eq!(bad_fields(get(&server, bad, false).await), ["spirit_id"], "{bad}");
        let fields = ["spirit_id", "expected_revision"];
        assert_eq!(bad_fields(delete(&server, bad, Some(0)).await), fields, "{bad}");
        assert_eq!(bad_fields(restore(&server, bad, Some(0)).await), fields, "{bad}");
    }
}

#[tokio::test]
async fn counts_are_exact_with_and_without_the_deleted() {
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
