//! `GetEvent`: by id, with or without the event's spirit.

use elephantasm_events::grpc::pb::{
    CreateEventRequest, Event, GetEventRequest, RestoreEventRequest, SoftDeleteSpiritRequest,
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::builders::{at, bad_fields, create, event, number, object, refused, text};
use crate::support::harness::TestServer;
use crate::support::model::delete;

async fn get(server: &TestServer, request: GetEventRequest) -> Result<Event, Status> {
    let response = server.events().get_event(request).await?;
    Ok(response.into_inner().event.unwrap())
}

fn by_id(event: &Event) -> GetEventRequest {
    GetEventRequest {
        event_id: event.id.clone(),
        ..GetEventRequest::default()
    }
}

#[tokio::test]
async fn get_event_accepts_ids_in_either_case_with_or_without_the_spirit() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let request = CreateEventRequest {
        session_id: Some("s".to_owned()),
        occurred_at: Some(at(-1)),
        meta: Some(object([("n", number(1e15)), ("t", text(""))])),
        content: Some(String::new()),
        ..event(&spirit_id)
    };
    let created = create(&mut server.events(), request).await;
    for spirit_id in [None, Some(spirit_id.clone()), Some(spirit_id.to_uppercase())] {
        for event_id in [created.id.clone(), created.id.to_uppercase()] {
            let request = GetEventRequest {
                event_id,
                spirit_id: spirit_id.clone(),
                ..GetEventRequest::default()
            };
            assert_eq!(get(&server, request).await.unwrap(), created);
        }
    }
}

#[tokio::test]
async fn an_unknown_event_or_one_of_another_spirit_is_not_found() {
    let server = TestServer::start().await;
    let (owner, other) = (server.spirit().await, server.spirit().await);
    let created = create(&mut server.events(), event(&owner)).await;
    let unknown = "01890a5d-ac96-774b-bcce-b302099a8057".to_owned();
    let table = [
        (
            "an unknown event",
            GetEventRequest {
                event_id: unknown.clone(),
                ..GetEventRequest::default()
            },
        ),
        (
            "a spirit's id",
            GetEventRequest {
                event_id: owner,
                ..GetEventRequest::default()
            },
        ),
        (
            "an event of another spirit",
            GetEventRequest {
                spirit_id: Some(other),
                ..by_id(&created)
            },
        ),
        (
            "an event under an unknown spirit",
            GetEventRequest {
                spirit_id: Some(unknown),
                ..by_id(&created)
            },
        ),
    ];
    for (name, request) in table {
        for include_deleted in [false, true] {
            let request = GetEventRequest {
                include_deleted,
                ..request.clone()
            };
            let event_id = request.event_id.clone();
            let status = refused(get(&server, request).await, Code::NotFound, "EVENT_NOT_FOUND");
            assert_eq!(
                status.get_details_resource_info().unwrap().resource_name,
                event_id,
                "{name}"
            );
        }
    }
}

#[tokio::test]
async fn get_event_returns_a_deleted_event_only_with_include_deleted() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut deleted = create(&mut server.events(), event(&spirit_id)).await;
    delete(&mut server.events(), &mut deleted).await;
    refused(
        get(&server, by_id(&deleted)).await,
        Code::NotFound,
        "EVENT_NOT_FOUND",
    );
    let request = GetEventRequest {
        include_deleted: true,
        ..by_id(&deleted)
    };
    let returned = get(&server, request).await.unwrap();
    assert!(returned.is_deleted && returned.deleted_at.is_some());
    assert_eq!(returned, deleted);
    let request = RestoreEventRequest {
        event_id: deleted.id.clone(),
        ..RestoreEventRequest::default()
    };
    server.events().restore_event(request).await.unwrap();
    assert!(!get(&server, by_id(&deleted)).await.unwrap().is_deleted);
}

#[tokio::test]
async fn get_event_returns_events_of_a_deleted_spirit() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let created = create(&mut server.events(), event(&spirit_id)).await;
    let request = SoftDeleteSpiritRequest {
        spirit_id,
        ..SoftDeleteSpiritRequest::default()
    };
    server.spirits().soft_delete_spirit(request).await.unwrap();
    assert_eq!(get(&server, by_id(&created)).await.unwrap(), created);
}

#[tokio::test]
async fn get_event_names_ids_that_are_not_uuids() {
    let server = TestServer::start().await;
    for bad in [
        "",
        "x",
        "01890a5dac96774bbcceb302099a8057",
        "{01890a5d-ac96-774b-bcce-b302099a8057}",
    ] {
        let request = GetEventRequest {
            event_id: bad.to_owned(),
            spirit_id: Some(bad.to_owned()),
            content_bytes_max: Some(0),
            ..GetEventRequest::default()
        };
        assert_eq!(
            bad_fields(get(&server, request).await),
            ["event_id", "spirit_id", "content_bytes_max"],
            "{bad:?}"
        );
    }
}
