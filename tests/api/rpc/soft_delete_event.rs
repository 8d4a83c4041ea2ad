//! `SoftDeleteEvent` and `RestoreEvent`.

use elephantasm_events::grpc::pb::{
    CountEventsRequest, Event, EventFilter, GetEventRequest, RestoreEventRequest, SoftDeleteEventRequest,
};
use tonic::{Code, Status};

use crate::support::builders::{bad_fields, create, event, list, metadata, refused};
use crate::support::harness::TestServer;
use crate::support::validation::UNKNOWN_ID;

fn deletion(event_id: &str) -> SoftDeleteEventRequest {
    SoftDeleteEventRequest {
        event_id: event_id.to_owned(),
        ..SoftDeleteEventRequest::default()
    }
}

async fn delete(server: &TestServer, request: SoftDeleteEventRequest) -> Result<Event, Status> {
    let response = server.events().soft_delete_event(request).await?;
    Ok(response.into_inner().event.unwrap())
}

/// Restores the event that the deletion names.
async fn restore(server: &TestServer, deletion: SoftDeleteEventRequest) -> Result<Event, Status> {
    let request = RestoreEventRequest {
        event_id: deletion.event_id,
        spirit_id: deletion.spirit_id,
        expected_revision: deletion.expected_revision,
    };
    let response = server.events().restore_event(request).await?;
    Ok(response.into_inner().event.unwrap())
}

async fn new_event(server: &TestServer) -> Event {
    let spirit_id = server.spirit().await;
    create(&mut server.events(), event(&spirit_id)).await
}

#[tokio::test]
async fn a_soft_deleted_event_is_hidden_and_restored_unchanged() {
    let server = TestServer::start().await;
    let before = new_event(&server).await;
    let deleted = delete(&server, deletion(&before.id)).await.unwrap();
    assert!(deleted.is_deleted);
    assert_eq!(deleted.deleted_at, deleted.updated_at);
    assert_eq!((deleted.revision, deleted.sequence), (2, 1));

    let mut events = server.events();
    let get = |include_deleted| GetEventRequest {
        event_id: before.id.clone(),
        include_deleted,
        ..GetEventRequest::default()
    };
    refused(
        events.get_event(get(false)).await,
        Code::NotFound,
        "EVENT_NOT_FOUND",
    );
    let found = events.get_event(get(true)).await.unwrap().into_inner();
    assert_eq!(found.event, Some(deleted));
    let listed = events.list_events(list(before.spirit_id())).await.unwrap();
    assert!(listed.into_inner().events.is_empty());
    let count = CountEventsRequest {
        spirit_id: before.spirit_id().to_owned(),
        filter: Some(EventFilter {
            include_deleted: true,
            ..EventFilter::default()
        }),
        ..CountEventsRequest::default()
    };
    assert_eq!(events.count_events(count).await.unwrap().into_inner().count, 1);

    let restored = restore(&server, deletion(&before.id)).await.unwrap();
    let expected = Event {
        revision: 3,
        updated_at: restored.updated_at,
        ..before
    };
    assert_eq!(restored, expected);
}

#[tokio::test]
async fn repeated_deletes_and_restores_of_an_event_change_nothing() {
    let server = TestServer::start().await;
    let before = new_event(&server).await;
    assert_eq!(restore(&server, deletion(&before.id)).await.unwrap(), before);
    let first = delete(&server, deletion(&before.id)).await.unwrap();
    assert_eq!(delete(&server, deletion(&before.id)).await.unwrap(), first);
    let restored = restore(&server, deletion(&before.id)).await.unwrap();
    assert_eq!(restore(&server, deletion(&before.id)).await.unwrap(), restored);
}

#[tokio::test]
async fn concurrent_deletes_of_an_event_count_as_one() {
    let server = TestServer::start().await;
    let before = new_event(&server).await;
    let deletions = (0..8).map(|_| delete(&server, deletion(&before.id)));
    for result in futures_util::future::join_all(deletions).await {
        let deleted = result.unwrap();
        assert_eq!((deleted.revision, deleted.is_deleted), (2, true));
    }
}

#[tokio::test]
async fn deleting_or_restoring_an_event_checks_expected_revision_first() {
    let server = TestServer::start().await;
    let before = new_event(&server).await;
    let guarded = |revision| SoftDeleteEventRequest {
        expected_revision: Some(revision),
        ..deletion(&before.id)
    };
    let wrong = [
        delete(&server, guarded(2)).await,
        restore(&server, guarded(7)).await, // although there is nothing to restore
    ];
    for result in wrong {
        let status = refused(result, Code::Aborted, "REVISION_MISMATCH");
        assert_eq!(metadata(&status, "actual"), "1");
    }
    delete(&server, guarded(1)).await.unwrap();
    let again = delete(&server, guarded(1)).await;
    refused(again, Code::Aborted, "REVISION_MISMATCH");
    assert_eq!(restore(&server, guarded(2)).await.unwrap().revision, 3);
}

#[tokio::test]
async fn an_event_is_deleted_or_restored_only_under_its_own_spirit() {
    let server = TestServer::start().await;
    let before = new_event(&server).await;
    let under = |spirit_id: String| SoftDeleteEventRequest {
        spirit_id: Some(spirit_id),
        ..deletion(&before.id)
    };
    let other = server.spirit().await;
    let missing = [
        delete(&server, under(other.clone())).await,
        restore(&server, under(other)).await,
        delete(&server, under(UNKNOWN_ID.to_owned())).await,
        delete(&server, deletion(UNKNOWN_ID)).await,
        restore(&server, deletion(UNKNOWN_ID)).await,
    ];
    for result in missing {
        refused(result, Code::NotFound, "EVENT_NOT_FOUND");
    }
    let own_spirit = under(before.spirit_id().to_uppercase());
    assert!(delete(&server, own_spirit).await.unwrap().is_deleted);
}

#[tokio::test]
async fn deleting_or_restoring_an_event_names_all_bad_fields_at_once() {
    let server = TestServer::start().await;
    let bad = SoftDeleteEventRequest {
        event_id: "x".to_owned(),
        spirit_id: Some("y".to_owned()),
        expected_revision: Some(-1),
    };
    let expected = ["event_id", "spirit_id", "expected_revision"];
    assert_eq!(bad_fields(delete(&server, bad.clone()).await), expected);
    assert_eq!(bad_fields(restore(&server, bad).await), expected);
}
