//! `CountEvents`: the exact number of events that `ListEvents` would list.

use elephantasm_events::grpc::pb::{CountEventsRequest, EventFilter, EventOrder, SoftDeleteSpiritRequest};
use tonic::Status;

use crate::support::builders::{at, bad_fields};
use crate::support::harness::TestServer;
use crate::support::model::{filters, sample_spirit, select};

async fn count(server: &TestServer, request: CountEventsRequest) -> Result<i64, Status> {
    Ok(server.events().count_events(request).await?.into_inner().count)
}

fn all_of(spirit_id: &str) -> CountEventsRequest {
    CountEventsRequest {
        spirit_id: spirit_id.to_owned(),
        ..CountEventsRequest::default()
    }
}

#[tokio::test]
async fn count_events_is_exact_for_every_filter_with_and_without_a_session() {
    let server = TestServer::start().await;
    let (spirit_id, events) = sample_spirit(&server).await;
    sample_spirit(&server).await; // another spirit, whose events must not count
    for (name, filter) in filters() {
        for session in [None, Some("a"), Some("ü"), Some("none such")] {
            let request = CountEventsRequest {
                session_id: session.map(str::to_owned),
                filter: Some(filter.clone()),
                ..all_of(&spirit_id)
            };
            let expected = select(&events, session, &filter, EventOrder::OldestFirst).len();
            let counted = count(&server, request).await.unwrap();
            assert_eq!(
                usize::try_from(counted).unwrap(),
                expected,
                "{name}, session {session:?}"
            );
        }
    }
}

#[tokio::test]
async fn count_events_is_zero_for_an_unknown_spirit_and_exact_for_a_deleted_one() {
    let server = TestServer::start().await;
    let unknown = all_of("01890a5d-ac96-774b-bcce-b302099a8057");
    assert_eq!(count(&server, unknown).await.unwrap(), 0);
    let (spirit_id, events) = sample_spirit(&server).await;
    let request = SoftDeleteSpiritRequest {
        spirit_id: spirit_id.clone(),
        ..SoftDeleteSpiritRequest::default()
    };
    server.spirits().soft_delete_spirit(request).await.unwrap();
    let live = events.iter().filter(|event| !event.is_deleted).count();
    let counted = count(&server, all_of(&spirit_id)).await.unwrap();
    assert_eq!(usize::try_from(counted).unwrap(), live);
}

#[tokio::test]
async fn count_events_names_every_bad_field() {
    let server = TestServer::start().await;
    let request = CountEventsRequest {
        spirit_id: String::new(),
        session_id: Some("s".repeat(256)),
        filter: Some(EventFilter {
            min_importance: Some(1.1),
            occurred_until: Some(at(-62_135_596_801)),
            ..EventFilter::default()
        }),
    };
    let expected = [
        "spirit_id",
        "session_id",
        "filter.min_importance",
        "filter.occurred_until",
    ];
    assert_eq!(bad_fields(count(&server, request).await), expected);
}
