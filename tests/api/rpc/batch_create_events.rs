//! `BatchCreateEvents`: order, atomicity and results.

use elephantasm_events::grpc::pb::batch_create_events_result::Result as Item;
use elephantasm_events::grpc::pb::{
    BatchCreateEventsRequest, BatchMode, CreateEventRequest, CreateEventResponse, CreateOutcome, Event,
    OnDuplicate,
};
use tonic::{Code, Response, Status};
use tonic_types::{RpcStatusExt as _, pb as rpc};

use crate::support::builders::{at, create, event, keyed, list, metadata, refused};
use crate::support::harness::TestServer;

/// The item's reply, which must be a success.
fn created(item: &Item) -> &CreateEventResponse {
    match item {
        Item::Created(created) => created,
        Item::Error(error) => panic!("item failed: {error:?}"),
    }
}

/// The item's error, which must have this code and reason.
#[track_caller]
fn error<'i>(item: &'i Item, code: Code, reason: &str) -> &'i rpc::Status {
    let Item::Error(error) = item else {
        panic!("expected {reason}, got a created event")
    };
    let info = error.get_details_error_info().expect("every error has ErrorInfo");
    assert_eq!((error.code, info.reason.as_str()), (i32::from(code), reason));
    error
}

async fn batch(
    server: &TestServer,
    mode: BatchMode,
    requests: Vec<CreateEventRequest>,
) -> Result<Vec<Item>, Status> {
    let request = BatchCreateEventsRequest {
        requests,
        mode: mode.into(),
    };
    let results = server
        .events()
        .batch_create_events(request)
        .await
        .map(Response::into_inner)?
        .results;
    Ok(results
        .into_iter()
        .map(|result| result.result.expect("each result is set"))
        .collect())
}

/// Number of the spirit's events.
async fn count_stored(server: &TestServer, spirit_id: &str) -> usize {
    server
        .events()
        .list_events(list(spirit_id))
        .await
        .unwrap()
        .into_inner()
        .events
        .len()
}

#[tokio::test]
async fn a_batch_assigns_sequences_in_request_order_and_returns_the_basic_view() {
    let server = TestServer::start().await;
    let (one, other) = (server.spirit().await, server.spirit().await);
    let requests = vec![
        event(&one),
        event(&other),
        event(&one),
        event(&other),
        event(&one),
    ];
    let results = batch(&server, BatchMode::Unspecified, requests).await.unwrap();
    let sequences: Vec<i64> = results
        .iter()
        .map(|item| created(item).event.as_ref().unwrap().sequence)
        .collect();
    assert_eq!(sequences, [1, 1, 2, 2, 3]);
    for item in &results {
        let event = created(item).event.as_ref().unwrap();
        assert_eq!(
            (&event.content, &event.meta),
            (&None, &None),
            "the BASIC view omits both"
        );
        assert_eq!(event.event_type(), "message.in");
    }
}

#[tokio::test]
async fn an_atomic_batch_is_all_or_nothing() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    batch(&server, BatchMode::Atomic, vec![keyed(&spirit_id, "taken")])
        .await
        .unwrap();
    let requests = vec![
        event(&spirit_id),
        keyed(&spirit_id, "taken"),
        event(&spirit_id),
        keyed(&spirit_id, "taken"),
    ];
    let status = refused(
        batch(&server, BatchMode::Atomic, requests).await,
        Code::AlreadyExists,
        "DUPLICATE_EVENT",
    );
    assert_eq!(metadata(&status, "failed_index"), "1");
    assert_eq!(metadata(&status, "failed_indexes"), "1,3");
    assert_eq!(metadata(&status, "dedupe_key"), "taken");
    assert_eq!(
        count_stored(&server, &spirit_id).await,
        1,
        "no item of the batch was stored"
    );
    let next = batch(&server, BatchMode::Atomic, vec![event(&spirit_id)])
        .await
        .unwrap();
    assert_eq!(
        created(&next[0]).event.as_ref().unwrap().sequence,
        2,
        "the failed batch used up no sequence"
    );
}

#[tokio::test]
async fn items_of_a_partial_batch_succeed_or_fail_independently() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let unknown = "01890a5d-ac96-774b-bcce-b302099a8057";
    let bad = CreateEventRequest {
        event_type: String::new(),
        ..event(&spirit_id)
    };
    let guarded = CreateEventRequest {
        expected_last_sequence: Some(7),
        ..event(&spirit_id)
    };
    let requests = vec![
        keyed(&spirit_id, "k"),
        bad,
        keyed(&spirit_id, "k"),
        event(unknown),
        guarded,
        event(&spirit_id),
    ];
    let results = batch(&server, BatchMode::Partial, requests).await.unwrap();
    let first = created(&results[0]).event.as_ref().unwrap();
    let invalid = error(&results[1], Code::InvalidArgument, "INVALID_FIELD");
    let violation = &invalid.get_details_bad_request().unwrap().field_violations[0];
    assert_eq!(violation.field, "requests[1].event_type");
    let duplicate = error(&results[2], Code::AlreadyExists, "DUPLICATE_EVENT");
    assert_eq!(
        duplicate.get_details_error_info().unwrap().metadata["existing_event_id"],
        first.id
    );
    error(&results[3], Code::NotFound, "SPIRIT_NOT_FOUND");
    let mismatch = error(&results[4], Code::Aborted, "SEQUENCE_MISMATCH");
    assert_eq!(mismatch.get_details_error_info().unwrap().metadata["actual"], "1");
    assert_eq!(created(&results[5]).event.as_ref().unwrap().sequence, 2);
    assert_eq!(count_stored(&server, &spirit_id).await, 2);
}

#[tokio::test]
async fn guards_and_dedupe_keys_of_a_batch_see_its_earlier_items() {
    use CreateOutcome::{Created, Duplicate, DuplicateDifferent};
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let guarded = |expected| CreateEventRequest {
        expected_last_sequence: Some(expected),
        ..event(&spirit_id)
    };
    let again = CreateEventRequest {
        on_duplicate: OnDuplicate::ReturnExisting.into(),
        ..keyed(&spirit_id, "k")
    };
    let different = CreateEventRequest {
        content: Some("other".to_owned()),
        ..again.clone()
    };
    let requests = vec![
        guarded(0),
        guarded(1),
        keyed(&spirit_id, "k"),
        again,
        different,
        guarded(3),
    ];
    let results = batch(&server, BatchMode::Atomic, requests).await.unwrap();
    let outcomes: Vec<CreateOutcome> = results.iter().map(|item| created(item).outcome()).collect();
    assert_eq!(
        outcomes,
        [Created, Created, Created, Duplicate, DuplicateDifferent, Created]
    );
    let ids: Vec<&str> = results
        .iter()
        .map(|item| created(item).event.as_ref().unwrap().id.as_str())
        .collect();
    assert_eq!((ids[3], ids[4]), (ids[2], ids[2]));
}

#[tokio::test]
async fn a_duplicate_within_a_refused_batch_names_no_existing_event() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let requests = vec![keyed(&spirit_id, "k"), keyed(&spirit_id, "k")];
    let status = refused(
        batch(&server, BatchMode::Atomic, requests).await,
        Code::AlreadyExists,
        "DUPLICATE_EVENT",
    );
    assert_eq!(metadata(&status, "failed_indexes"), "1");
    assert!(!status.message().contains("by event"), "{}", status.message());
    assert_eq!(count_stored(&server, &spirit_id).await, 0);
}

#[tokio::test]
async fn an_atomic_batch_fails_with_the_error_of_its_lowest_failing_index() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let guarded = CreateEventRequest {
        expected_last_sequence: Some(5),
        ..event(&spirit_id)
    };
    let requests = vec![
        event(&spirit_id),
        guarded,
        event("01890a5d-ac96-774b-bcce-b302099a8057"),
    ];
    let status = refused(
        batch(&server, BatchMode::Atomic, requests).await,
        Code::Aborted,
        "SEQUENCE_MISMATCH",
    );
    assert_eq!(metadata(&status, "failed_indexes"), "1,2");
    assert_eq!(
        metadata(&status, "actual"),
        "1",
        "the guard sees the item before it"
    );
}

#[tokio::test]
async fn a_reply_with_a_thousand_long_duplicates_is_at_most_4_mib() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let existing = CreateEventRequest {
        meta_summary: Some("x".repeat(16 * 1024)),
        ..keyed(&spirit_id, "k")
    };
    let existing = create(&mut server.events(), existing).await;
    let duplicate = CreateEventRequest {
        on_duplicate: OnDuplicate::ReturnExisting.into(),
        ..keyed(&spirit_id, "k")
    };
    let mut requests = vec![duplicate; 999];
    requests.push(event(&spirit_id));
    let results = batch(&server, BatchMode::Atomic, requests).await.unwrap();
    let named = Event {
        id: existing.id,
        spirit_id: existing.spirit_id,
        sequence: 1,
        ..Event::default()
    };
    for item in &results[..999] {
        assert_eq!(created(item).event.as_ref(), Some(&named));
        assert_eq!(created(item).outcome(), CreateOutcome::Duplicate);
    }
    let new = created(&results[999]).event.as_ref().unwrap();
    assert_eq!((new.sequence, new.event_type()), (2, "message.in"));
}

#[tokio::test]
async fn a_reply_with_a_thousand_long_errors_is_at_most_4_mib() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let bad = CreateEventRequest {
        spirit_id: "x".repeat(100),
        event_type: "x".repeat(101),
        session_id: Some("x".repeat(256)),
        role: Some("x".repeat(51)),
        author: Some("x".repeat(256)),
        source_uri: Some(String::new()),
        dedupe_key: Some("x".repeat(256)),
        importance_score: Some(2.0),
        on_duplicate: 9,
        expected_last_sequence: Some(-1),
        expected_session_last_sequence: Some(-1),
        reply_view: 9,
        occurred_at: Some(at(i64::MAX)),
        ..CreateEventRequest::default()
    };
    let mut requests = vec![bad; 999];
    requests.push(event(&spirit_id));
    let results = batch(&server, BatchMode::Partial, requests).await.unwrap();
    for item in &results[..999] {
        error(item, Code::InvalidArgument, "INVALID_FIELD");
    }
    assert_eq!(created(&results[999]).event.as_ref().unwrap().sequence, 1);
}
