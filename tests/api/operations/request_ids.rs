//! Every call has a request id, the caller's or a generated one, which is returned with the reply.

use std::collections::HashSet;

use elephantasm_events::grpc::pb::{CountSpiritsRequest, CreateEventRequest, ListEventsRequest};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Request};
use tonic_types::StatusExt as _;

use crate::support::builders::{list, refused, stream};
use crate::support::harness::TestServer;

#[track_caller]
fn id_of(metadata: &MetadataMap) -> String {
    let ids: Vec<_> = metadata.get_all("x-request-id").iter().collect();
    assert_eq!(ids.len(), 1, "{metadata:?}");
    ids[0].to_str().unwrap().to_owned()
}

fn with_id<T>(message: T, id: &str) -> Request<T> {
    let mut request = Request::new(message);
    let id = MetadataValue::try_from(id).unwrap();
    request.metadata_mut().insert("x-request-id", id);
    request
}

#[tokio::test]
async fn replies_errors_and_streams_return_the_callers_request_id() {
    let server = TestServer::start().await;
    let count = with_id(CountSpiritsRequest::default(), "job-7/step:3");
    let reply = server.spirits().count_spirits(count).await.unwrap();
    assert_eq!(id_of(reply.metadata()), "job-7/step:3");

    let bad = with_id(CreateEventRequest::default(), "job-8");
    let error = refused(
        server.events().create_event(bad).await,
        Code::InvalidArgument,
        "INVALID_FIELD",
    );
    assert_eq!(id_of(error.metadata()), "job-8");

    let replay = with_id(stream(&server.spirit().await, "s"), "job-9");
    let reply = server.events().stream_session_events(replay).await.unwrap();
    assert_eq!(id_of(reply.metadata()), "job-9");
}

#[tokio::test]
async fn a_call_without_a_request_id_gets_a_generated_one() {
    let server = TestServer::start().await;
    let mut ids = HashSet::new();
    for _ in 0..20 {
        let reply = server
            .spirits()
            .count_spirits(CountSpiritsRequest::default())
            .await;
        let id = id_of(reply.unwrap().metadata());
        assert!(
            id.len() == 16 && id.bytes().all(|digit| digit.is_ascii_hexdigit()),
            "{id}"
        );
        assert!(ids.insert(id));
    }
}

#[tokio::test]
async fn a_request_id_unfit_for_a_log_line_is_replaced() {
    let server = TestServer::start().await;
    for (name, id) in [
        ("empty", String::new()),
        ("a space", "two words".to_owned()),
        ("too long", "x".repeat(129)),
    ] {
        let request = with_id(CountSpiritsRequest::default(), &id);
        let reply = server.spirits().count_spirits(request).await.unwrap();
        assert_eq!(id_of(reply.metadata()).len(), 16, "{name}");
    }
    let longest = "x".repeat(128);
    let request = with_id(CountSpiritsRequest::default(), &longest);
    let reply = server.spirits().count_spirits(request).await.unwrap();
    assert_eq!(id_of(reply.metadata()), longest);
}

#[tokio::test]
async fn an_internal_error_names_the_request_id() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut connection = server.database.connect().await;
    sqlx::query("alter table events rename to elsewhere")
        .execute(&mut connection)
        .await
        .unwrap();
    let request: Request<ListEventsRequest> = with_id(list(&spirit_id), "job-10");
    let error = refused(
        server.events().list_events(request).await,
        Code::Internal,
        "INTERNAL",
    );
    assert_eq!(error.get_details_request_info().unwrap().request_id, "job-10");
    assert_eq!(id_of(error.metadata()), "job-10");
    assert!(error.message().contains("job-10"), "{error:?}");
}
