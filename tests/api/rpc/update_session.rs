//! `GetSession` and `UpdateSession`: masks, merge patches, guards, and sessions without events.

use elephantasm_events::grpc::pb::{
    GetSessionRequest, MetaMode, Session, SoftDeleteSpiritRequest, UpdateSessionRequest,
};
use futures_util::future::join_all;
use tonic::{Code, Status};

use crate::support::builders::{
    at, bad_fields, create, event_at, mask, metadata, number, object, refused, text,
};
use crate::support::harness::TestServer;
use crate::support::model::{delete, store};
use crate::support::validation::UNKNOWN_ID;

fn update(spirit_id: &str, session_id: &str) -> UpdateSessionRequest {
    UpdateSessionRequest {
        spirit_id: spirit_id.to_owned(),
        session_id: session_id.to_owned(),
        ..UpdateSessionRequest::default()
    }
}

async fn updated(server: &TestServer, request: UpdateSessionRequest) -> Result<Session, Status> {
    let response = server.sessions().update_session(request).await?;
    Ok(response.into_inner().session.unwrap())
}

async fn get(server: &TestServer, spirit_id: &str, session_id: &str) -> Result<Session, Status> {
    let request = GetSessionRequest {
        spirit_id: spirit_id.to_owned(),
        session_id: session_id.to_owned(),
    };
    let response = server.sessions().get_session(request).await?;
    Ok(response.into_inner().session.unwrap())
}

#[tokio::test]
async fn a_session_has_counts_and_times_of_its_live_events_and_the_last_sequence_of_all() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let requests = [30, 90, 10, 200].map(|seconds| event_at(&spirit_id, "s", seconds));
    let mut events = store(&mut server.events(), requests.into()).await;
    delete(&mut server.events(), &mut events[3]).await;
    let expected = Session {
        spirit_id: spirit_id.clone(),
        session_id: "s".to_owned(),
        event_count: Some(3),
        first_occurred_at: Some(at(10)),
        last_occurred_at: Some(at(90)),
        last_sequence: 4,
        ..Session::default()
    };
    assert_eq!(get(&server, &spirit_id, "s").await.unwrap(), expected);
    for event in &mut events[..3] {
        delete(&mut server.events(), event).await;
    }
    let empty = Session {
        event_count: Some(0),
        first_occurred_at: None,
        last_occurred_at: None,
        ..expected
    };
    assert_eq!(get(&server, &spirit_id, "s").await.unwrap(), empty);
}

#[tokio::test]
async fn a_session_may_be_titled_before_its_first_event() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    refused(
        get(&server, &spirit_id, "s").await,
        Code::NotFound,
        "SESSION_NOT_FOUND",
    );
    let request = UpdateSessionRequest {
        title: Some("First talk".to_owned()),
        owner: Some("ann".to_owned()),
        expected_revision: Some(0),
        ..update(&spirit_id, "s")
    };
    let session = updated(&server, request).await.unwrap();
    let expected = Session {
        spirit_id: spirit_id.clone(),
        session_id: "s".to_owned(),
        event_count: Some(0),
        title: Some("First talk".to_owned()),
        owner: Some("ann".to_owned()),
        revision: 1,
        updated_at: session.updated_at,
        ..Session::default()
    };
    assert_eq!(session, expected);
    assert!(session.updated_at.is_some());
    create(&mut server.events(), event_at(&spirit_id, "s", 7)).await;
    let with_event = Session {
        event_count: Some(1),
        first_occurred_at: Some(at(7)),
        last_occurred_at: Some(at(7)),
        last_sequence: 1,
        ..expected
    };
    assert_eq!(get(&server, &spirit_id, "s").await.unwrap(), with_event);
}

#[tokio::test]
async fn update_session_writes_present_or_listed_fields_and_clears_listed_absent_ones() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let full = UpdateSessionRequest {
        title: Some("T".to_owned()),
        owner: Some("o".to_owned()),
        meta: Some(object([("a", number(1.0)), ("b", number(2.0))])),
        ..update(&spirit_id, "s")
    };
    let first = updated(&server, full.clone()).await.unwrap();
    assert_eq!(updated(&server, full).await.unwrap(), first, "nothing changed");

    let patched = UpdateSessionRequest {
        meta: Some(object([
            ("c", number(3.0)),
            (
                "a",
                prost_types::Value {
                    kind: Some(prost_types::value::Kind::NullValue(0)),
                },
            ),
        ])),
        meta_mode: MetaMode::MergePatch.into(),
        expected_revision: Some(1),
        ..update(&spirit_id, "s")
    };
    let patched = updated(&server, patched).await.unwrap();
    assert_eq!(
        patched.meta,
        Some(object([("b", number(2.0)), ("c", number(3.0))]))
    );
    assert_eq!(
        (patched.title(), patched.owner(), patched.revision),
        ("T", "o", 2)
    );

    let cleared = UpdateSessionRequest {
        title: Some("not listed".to_owned()),
        update_mask: mask(&["owner", "meta"]),
        ..update(&spirit_id, "s")
    };
    let cleared = updated(&server, cleared).await.unwrap();
    assert_eq!(
        (cleared.title(), &cleared.owner, &cleared.meta),
        ("T", &None, &None)
    );
    assert_eq!(cleared.revision, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_merge_patches_of_a_session_all_take_effect() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let patches = (0..10).map(|n| {
        let request = UpdateSessionRequest {
            meta: Some(object([(
                ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"][n],
                number(1.0),
            )])),
            meta_mode: MetaMode::MergePatch.into(),
            ..update(&spirit_id, "s")
        };
        updated(&server, request)
    });
    for patched in join_all(patches).await {
        patched.unwrap();
    }
    let session = get(&server, &spirit_id, "s").await.unwrap();
    assert_eq!(session.meta.unwrap().fields.len(), 10);
    assert_eq!(session.revision, 10);
}

#[tokio::test]
async fn update_session_refuses_stale_revisions_unknown_spirits_and_bad_fields() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let titled = |spirit_id: &str, session_id: &str| UpdateSessionRequest {
        title: Some("T".to_owned()),
        ..update(spirit_id, session_id)
    };
    let stale = UpdateSessionRequest {
        expected_revision: Some(3),
        ..titled(&spirit_id, "s")
    };
    let status = refused(updated(&server, stale).await, Code::Aborted, "REVISION_MISMATCH");
    assert_eq!(
        (metadata(&status, "expected"), metadata(&status, "actual")),
        ("3".to_owned(), "0".to_owned())
    );
    refused(
        updated(&server, titled(UNKNOWN_ID, "s")).await,
        Code::NotFound,
        "SPIRIT_NOT_FOUND",
    );
    create(&mut server.events(), event_at(&spirit_id, "old", 1)).await;
    let request = SoftDeleteSpiritRequest {
        spirit_id: spirit_id.clone(),
        ..SoftDeleteSpiritRequest::default()
    };
    server.spirits().soft_delete_spirit(request).await.unwrap();
    let refusal = updated(&server, titled(&spirit_id, "new")).await;
    refused(refusal, Code::NotFound, "SPIRIT_NOT_FOUND");
    updated(&server, titled(&spirit_id, "old")).await.unwrap();

    let bad = UpdateSessionRequest {
        title: Some(String::new()),
        owner: Some("o".repeat(256)),
        meta: Some(object([("k", text("\0"))])),
        expected_revision: Some(-1),
        update_mask: mask(&["title", "session_id"]),
        ..update("x", "")
    };
    let expected = [
        "spirit_id",
        "session_id",
        "expected_revision",
        "update_mask",
        "title",
        "owner",
        "meta",
    ];
    assert_eq!(bad_fields(updated(&server, bad).await), expected);
    assert_eq!(
        bad_fields(get(&server, "x", "").await),
        ["spirit_id", "session_id"]
    );
}
