//! Validation of the requests of `SpiritService`: every field at its limit and just past it.

use elephantasm_events::grpc::pb::{
    CreateSpiritRequest, GetSpiritRequest, ListSpiritsRequest, RestoreSpiritRequest, SoftDeleteSpiritRequest,
    UpdateSpiritRequest,
};
use prost_types::FieldMask;

use crate::support::harness::TestServer;
use crate::support::validation::{
    UNKNOWN_ID, ValidationCases, at_least, bytes, chars, enums, metas, page_sizes, uuids,
};

const DESCRIPTION_BYTES_MAX: usize = 16 * 1024;

#[tokio::test]
async fn create_spirit_validates_every_field() {
    let server = TestServer::start().await;
    let mut spirits = server.spirits();
    let base = CreateSpiritRequest {
        name: "test".to_owned(),
        ..CreateSpiritRequest::default()
    };
    ValidationCases::new(base)
        .field("name", chars(255), |r, v| r.name = v)
        .field("description", bytes(DESCRIPTION_BYTES_MAX), |r, v| {
            r.description = Some(v);
        })
        .field("meta", metas(), |r, v| r.meta = Some(v))
        .run(async |request| spirits.create_spirit(request).await.map(drop))
        .await;
}

#[tokio::test]
async fn update_spirit_validates_every_field() {
    let server = TestServer::start().await;
    let mut spirits = server.spirits();
    let base = UpdateSpiritRequest {
        spirit_id: server.spirit().await,
        ..UpdateSpiritRequest::default()
    };
    let mask = |path: &str| {
        let paths = vec![path.to_owned()];
        Some(FieldMask { paths })
    };
    let mut cases = ValidationCases::new(base)
        .field("name", chars(255), |r, v| r.name = Some(v))
        .field("description", bytes(DESCRIPTION_BYTES_MAX), |r, v| {
            r.description = Some(v);
        })
        .field("meta", metas(), |r, v| r.meta = Some(v))
        .field("meta_mode", enums(2), |r, v| r.meta_mode = v)
        .case("description cleared", &[], |r| {
            r.update_mask = mask("description");
        })
        .case("meta cleared", &[], |r| r.update_mask = mask("meta"))
        .case("name without a value", &["name"], |r| {
            r.update_mask = mask("name");
        })
        .case("is_deleted without a value", &["is_deleted"], |r| {
            r.update_mask = mask("is_deleted");
        });
    for bad in [
        "*",
        "",
        "spirit_id",
        "last_sequence",
        "revision",
        "meta.key",
        "names",
        "name\0",
    ] {
        cases = cases.case(bad, &["update_mask"], |r| r.update_mask = mask(bad));
    }
    cases
        .run(async |request| spirits.update_spirit(request).await.map(drop))
        .await;
}

#[tokio::test]
async fn spirit_rpcs_validate_ids_and_expected_revision() {
    let server = TestServer::start().await;
    let mut spirits = server.spirits();
    let spirit_id = UNKNOWN_ID.to_owned();
    let get = GetSpiritRequest {
        spirit_id: spirit_id.clone(),
        include_deleted: false,
    };
    ValidationCases::new(get)
        .field("spirit_id", uuids(), |r, v| r.spirit_id = v)
        .run(async |request| spirits.get_spirit(request).await.map(drop))
        .await;
    let update = UpdateSpiritRequest {
        spirit_id: spirit_id.clone(),
        ..UpdateSpiritRequest::default()
    };
    ValidationCases::new(update)
        .field("spirit_id", uuids(), |r, v| r.spirit_id = v)
        .field("expected_revision", at_least(1, i64::MIN), |r, v| {
            r.expected_revision = Some(v);
        })
        .run(async |request| spirits.update_spirit(request).await.map(drop))
        .await;
    let delete = SoftDeleteSpiritRequest {
        spirit_id: spirit_id.clone(),
        expected_revision: None,
    };
    ValidationCases::new(delete)
        .field("spirit_id", uuids(), |r, v| r.spirit_id = v)
        .field("expected_revision", at_least(1, i64::MIN), |r, v| {
            r.expected_revision = Some(v);
        })
        .run(async |request| spirits.soft_delete_spirit(request).await.map(drop))
        .await;
    let restore = RestoreSpiritRequest {
        spirit_id,
        expected_revision: None,
    };
    ValidationCases::new(restore)
        .field("spirit_id", uuids(), |r, v| r.spirit_id = v)
        .field("expected_revision", at_least(1, i64::MIN), |r, v| {
            r.expected_revision = Some(v);
        })
        .run(async |request| spirits.restore_spirit(request).await.map(drop))
        .await;
}

#[tokio::test]
async fn list_spirits_validates_every_field() {
    let server = TestServer::start().await;
    let mut spirits = server.spirits();
    ValidationCases::new(ListSpiritsRequest::default())
        .field("name_contains", chars(255), |r, v| r.name_contains = Some(v))
        .field("page_size", page_sizes(), |r, v| r.page_size = v)
        .field("offset", at_least(0, i32::MIN), |r, v| r.offset = v)
        .case("an offset with a token", &["offset"], |r| {
            r.offset = 1;
            r.page_token = "token".to_owned();
        })
        .run(async |request| spirits.list_spirits(request).await.map(drop))
        .await;
}
