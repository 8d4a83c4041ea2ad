//! `CreateEvent`: stored fields, duplicates and guards.

use std::collections::HashSet;

use elephantasm_events::grpc::pb::{CreateEventRequest, CreateOutcome, OnDuplicate};
use futures_util::future::join_all;
use prost_types::Timestamp;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::support::builders::{
    at, create, event, keyed, list, metadata, number, object, refused, stored_event, text,
};
use crate::support::harness::TestServer;

#[tokio::test]
async fn a_created_event_is_returned_and_stored_as_sent() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut events = server.events();
    let meta = object([("n", number(3.0)), ("s", text("ünïcödé 🐘")), ("f", number(0.5))]);
    let request = CreateEventRequest {
        meta_summary: Some("summary".to_owned()),
        occurred_at: Some(Timestamp {
            seconds: 1_760_710_995,
            nanos: 123_456_789,
        }),
        session_id: Some("s".to_owned()),
        role: Some("user".to_owned()),
        author: Some("Ada".to_owned()),
        meta: Some(meta.clone()),
        source_uri: Some("chat://1".to_owned()),
        dedupe_key: Some("k".to_owned()),
        importance_score: Some(0.25),
        ..event(&spirit_id.to_uppercase())
    };
    let response = events.create_event(request).await.unwrap().into_inner();
    assert_eq!(response.outcome(), CreateOutcome::Created);
    let created = response.event.unwrap();
    assert_eq!(created.spirit_id(), spirit_id, "UUIDs are returned in lower case");
    assert_eq!(
        (created.sequence, created.revision, created.is_deleted),
        (1, 1, false)
    );
    assert_eq!(created.content(), "hello");
    assert_eq!(created.meta, Some(meta));
    assert_eq!(
        created.occurred_at.unwrap().nanos,
        123_456_000,
        "truncated to microseconds"
    );
    assert_eq!(created.created_at, created.updated_at);

    let stored = stored_event(&mut events, &created.id).await;
    assert_eq!(stored, created, "the reply equals the stored event");
}

#[tokio::test]
async fn integral_numbers_in_meta_are_stored_as_integers() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let fields = object([
        ("big", number(9_007_199_254_740_992.0)),
        ("one", number(-1.0)),
        ("half", number(0.5)),
    ]);
    let request = CreateEventRequest {
        meta: Some(fields.clone()),
        ..event(&spirit_id)
    };
    let created = create(&mut server.events(), request).await;
    assert_eq!(created.meta, Some(fields));
    let (stored,): (String,) = sqlx::query_as("select meta::text from events")
        .fetch_one(&mut server.database.connect().await)
        .await
        .unwrap();
    assert_eq!(stored, r#"{"big": 9007199254740992, "one": -1, "half": 0.5}"#);
}

#[tokio::test]
async fn occurred_at_defaults_to_now_and_content_may_be_empty() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let request = CreateEventRequest {
        content: Some(String::new()),
        ..event(&spirit_id)
    };
    let created = create(&mut server.events(), request).await;
    assert_eq!(created.content.as_deref(), Some(""));
    assert_eq!(created.meta, Some(object([])));
    let lag = created.created_at.unwrap().seconds - created.occurred_at.unwrap().seconds;
    assert!((0..=5).contains(&lag), "occurred_at is {lag} s before created_at");
    assert_eq!(created.occurred_at.unwrap().nanos % 1_000, 0);
}

#[tokio::test]
async fn identical_concurrent_creates_store_one_event() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let calls = (0..64).map(|_| {
        let mut events = server.events();
        let request = keyed(&spirit_id, "once");
        async move { events.create_event(request).await }
    });
    let (created, refusals): (Vec<_>, Vec<_>) = join_all(calls).await.into_iter().partition(Result::is_ok);
    assert_eq!(created.len(), 1);
    let id = created
        .into_iter()
        .next()
        .unwrap()
        .unwrap()
        .into_inner()
        .event
        .unwrap()
        .id;
    assert_eq!(refusals.len(), 63);
    for refusal in refusals {
        let status = refused(refusal, Code::AlreadyExists, "DUPLICATE_EVENT");
        assert_eq!(metadata(&status, "existing_event_id"), id);
        assert_eq!(metadata(&status, "dedupe_key"), "once");
    }
    let stored = server
        .events()
        .list_events(list(&spirit_id))
        .await
        .unwrap()
        .into_inner()
        .events;
    assert_eq!(stored.len(), 1);
    assert_eq!(stored[0].sequence, 1, "duplicates use up no sequence");
}

#[tokio::test]
async fn return_existing_and_reject_distinguish_a_duplicate_from_a_different_event() {
    use CreateOutcome::{Duplicate, DuplicateDifferent};
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut events = server.events();
    let time = |nanos| Some(Timestamp { seconds: 5, nanos });
    let first = CreateEventRequest {
        on_duplicate: OnDuplicate::ReturnExisting.into(),
        session_id: Some("s".to_owned()),
        source_uri: Some("u".to_owned()),
        occurred_at: time(7_000),
        ..keyed(&spirit_id, "k")
    };
    let original = create(&mut events, first.clone()).await;
    let with = |change: &dyn Fn(&mut CreateEventRequest)| {
        let mut request = first.clone();
        change(&mut request);
        request
    };
    let table: [(&str, CreateEventRequest, CreateOutcome); 10] = [
        ("the same", first.clone(), Duplicate),
        ("no time given", with(&|r| r.occurred_at = None), Duplicate),
        (
            "the same microsecond",
            with(&|r| r.occurred_at = time(7_999)),
            Duplicate,
        ),
        (
            "another role",
            with(&|r| r.role = Some("tool".to_owned())),
            Duplicate,
        ),
        (
            "another type",
            with(&|r| r.event_type = "x".to_owned()),
            DuplicateDifferent,
        ),
        (
            "another content",
            with(&|r| r.content = Some(String::new())),
            DuplicateDifferent,
        ),
        ("no session", with(&|r| r.session_id = None), DuplicateDifferent),
        (
            "another session",
            with(&|r| r.session_id = Some("t".to_owned())),
            DuplicateDifferent,
        ),
        ("no source", with(&|r| r.source_uri = None), DuplicateDifferent),
        (
            "another time",
            with(&|r| r.occurred_at = Some(at(6))),
            DuplicateDifferent,
        ),
    ];
    for (name, request, outcome) in table {
        let response = events.create_event(request.clone()).await.unwrap().into_inner();
        assert_eq!(response.outcome(), outcome, "{name}");
        assert_eq!(response.event.unwrap(), original, "{name}");
        let rejected = CreateEventRequest {
            on_duplicate: OnDuplicate::Reject.into(),
            ..request
        };
        let rejected = events.create_event(rejected).await;
        let status = refused(rejected, Code::AlreadyExists, "DUPLICATE_EVENT");
        let different = outcome == DuplicateDifferent;
        assert_eq!(metadata(&status, "different"), different.to_string(), "{name}");
    }
}

#[tokio::test]
async fn a_soft_deleted_event_keeps_its_dedupe_key_and_is_returned_as_deleted() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut events = server.events();
    let original = create(&mut events, keyed(&spirit_id, "k")).await;
    events
        .soft_delete_event(elephantasm_events::grpc::pb::SoftDeleteEventRequest {
            event_id: original.id.clone(),
            ..Default::default()
        })
        .await
        .unwrap();
    refused(
        events.create_event(keyed(&spirit_id, "k")).await,
        Code::AlreadyExists,
        "DUPLICATE_EVENT",
    );
    let again = CreateEventRequest {
        on_duplicate: OnDuplicate::ReturnExisting.into(),
        ..keyed(&spirit_id, "k")
    };
    let returned = create(&mut events, again).await;
    assert_eq!(returned.id, original.id);
    assert!(returned.is_deleted && returned.deleted_at.is_some());
}

#[tokio::test]
async fn a_dedupe_key_is_scoped_to_its_spirit() {
    let server = TestServer::start().await;
    let (one, other) = (server.spirit().await, server.spirit().await);
    let mut events = server.events();
    let first = create(&mut events, keyed(&one, "k")).await;
    let second = create(&mut events, keyed(&other, "k")).await;
    assert_ne!(first.id, second.id);
}

#[tokio::test]
async fn a_dedupe_key_derived_from_source_uri_and_time_detects_a_retry() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut events = server.events();
    let sourced = CreateEventRequest {
        source_uri: Some("u".to_owned()),
        occurred_at: Some(at(1_000)),
        ..event(&spirit_id)
    };
    let created = create(&mut events, sourced.clone()).await;
    assert_eq!(created.dedupe_key().len(), 32);
    let status = refused(
        events.create_event(sourced.clone()).await,
        Code::AlreadyExists,
        "DUPLICATE_EVENT",
    );
    assert_eq!(metadata(&status, "dedupe_key"), created.dedupe_key());
    let later = CreateEventRequest {
        occurred_at: Some(at(1_001)),
        ..sourced
    };
    assert_ne!(create(&mut events, later).await.dedupe_key, created.dedupe_key);
}

#[tokio::test]
async fn expected_last_sequence_lets_exactly_one_of_two_concurrent_creates_succeed() {
    let server = TestServer::start().await;
    for _ in 0..20 {
        let spirit_id = server.spirit().await;
        let creates = ["a", "b"].map(|key| {
            let mut events = server.events();
            let request = CreateEventRequest {
                expected_last_sequence: Some(0),
                ..keyed(&spirit_id, key)
            };
            async move { events.create_event(request).await }
        });
        let (succeeded, failed): (Vec<_>, Vec<_>) =
            join_all(creates).await.into_iter().partition(Result::is_ok);
        assert_eq!((succeeded.len(), failed.len()), (1, 1));
        for result in failed {
            let status = refused(result, Code::Aborted, "SEQUENCE_MISMATCH");
            assert_eq!(metadata(&status, "expected"), "0");
            assert_eq!(metadata(&status, "actual"), "1");
        }
    }
}

#[tokio::test]
async fn a_duplicate_is_reported_even_if_expected_last_sequence_does_not_hold() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut events = server.events();
    let guarded = CreateEventRequest {
        expected_last_sequence: Some(0),
        ..keyed(&spirit_id, "k")
    };
    create(&mut events, guarded.clone()).await;
    refused(
        events.create_event(guarded).await,
        Code::AlreadyExists,
        "DUPLICATE_EVENT",
    );
}

#[tokio::test]
async fn create_event_in_an_unknown_spirit_is_not_found() {
    let server = TestServer::start().await;
    let unknown = "01890a5d-ac96-774b-bcce-b302099a8057";
    let status = refused(
        server.events().create_event(event(unknown)).await,
        Code::NotFound,
        "SPIRIT_NOT_FOUND",
    );
    assert_eq!(status.get_details_resource_info().unwrap().resource_name, unknown);
}

#[tokio::test]
async fn event_ids_are_increasing_uuidv7s() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut events = server.events();
    let mut ids = Vec::new();
    for _ in 0..50 {
        ids.push(create(&mut events, event(&spirit_id)).await.id);
    }
    assert!(ids.is_sorted());
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 50);
    assert!(ids.iter().all(|id| id.as_bytes()[14] == b'7'), "version 7");
}
