//! `ListEventChanges`: the history of an event, with its former values.

use elephantasm_events::domain::access::Role;
use elephantasm_events::grpc::pb;
use elephantasm_events::grpc::pb::{
    ChangeKind, CreateEventRequest, Event, EventChange, GetSpiritRequest, ListEventChangesRequest, MetaMode,
    RestoreEventRequest, RestoreEventsRequest, SoftDeleteEventRequest, SoftDeleteEventsRequest,
    UpdateEventRequest,
};

use crate::support::access::KeyedServer;
use crate::support::builders::{
    bad_fields, create, event, insert_events, mask, number, object, refused, text,
};
use crate::support::harness::TestServer;
use crate::support::model::sequences;
use tonic::Code;

fn of_event(event_id: &str) -> ListEventChangesRequest {
    ListEventChangesRequest {
        event_id: event_id.to_owned(),
        ..ListEventChangesRequest::default()
    }
}

/// Every change of an event, newest first, read in pages of this size; also the number of pages.
async fn history(server: &TestServer, event_id: &str, page_size: i32) -> (Vec<EventChange>, usize) {
    let mut request = ListEventChangesRequest {
        page_size,
        ..of_event(event_id)
    };
    let (mut changes, mut pages) = (Vec::new(), 0);
    loop {
        let page = server
            .events()
            .list_event_changes(request.clone())
            .await
            .unwrap()
            .into_inner();
        pages += 1;
        changes.extend(page.changes);
        if page.next_page_token.is_empty() {
            return (changes, pages);
        }
        request.page_token = page.next_page_token;
    }
}

async fn last_change(server: &TestServer, spirit_id: &str) -> i64 {
    let request = GetSpiritRequest {
        spirit_id: spirit_id.to_owned(),
        ..GetSpiritRequest::default()
    };
    let response = server.spirits().get_spirit(request).await.unwrap();
    response.into_inner().spirit.unwrap().last_change
}

async fn update(server: &TestServer, request: UpdateEventRequest) -> Event {
    let response = server.events().update_event(request).await.unwrap();
    response.into_inner().event.unwrap()
}

fn of(event: &Event) -> UpdateEventRequest {
    UpdateEventRequest {
        event_id: event.id.clone(),
        ..UpdateEventRequest::default()
    }
}

/// Kind, fields, former values and revision of a change of one event.
fn summary(change: &EventChange) -> (ChangeKind, Vec<&str>, Event, i64) {
    let fields = change.fields.iter().map(String::as_str).collect();
    let previous = change.previous.clone().expect("the change of one event");
    (change.kind(), fields, previous, change.revision)
}

#[tokio::test]
async fn edits_deletes_and_restores_are_listed_newest_first_with_the_former_values() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let request = CreateEventRequest {
        role: Some("user".to_owned()),
        meta: Some(object([("n", number(0.5)), ("t", text("é\"\\"))])),
        importance_score: Some(0.1),
        ..event(&spirit_id)
    };
    let created = create(&mut server.events(), request).await;
    assert_eq!(history(&server, &created.id, 0).await.0, []);
    let first = UpdateEventRequest {
        meta_summary: Some("short".to_owned()),
        importance_score: Some(0.25),
        meta: Some(object([("n", number(2.0))])),
        meta_mode: MetaMode::MergePatch.into(),
        author: Some("Ada".to_owned()),
        ..of(&created)
    };
    let edited = update(&server, first).await;
    let second = UpdateEventRequest {
        is_deleted: Some(true),
        update_mask: mask(&["role", "is_deleted"]),
        ..of(&created)
    };
    let deleted = update(&server, second).await;
    let request = RestoreEventRequest {
        event_id: created.id.clone(),
        ..RestoreEventRequest::default()
    };
    let restored = server
        .events()
        .restore_event(request)
        .await
        .unwrap()
        .into_inner()
        .event
        .unwrap();

    let (changes, _) = history(&server, &created.id, 1).await;
    let numbers: Vec<i64> = changes.iter().map(|change| change.change).collect();
    assert_eq!(numbers, [3, 2, 1]);
    assert_eq!(last_change(&server, &spirit_id).await, 3);
    for (change, after) in changes.iter().zip([&restored, &deleted, &edited]) {
        assert_eq!(
            (&change.spirit_id, &change.event_ids),
            (&spirit_id, &vec![created.id.clone()])
        );
        assert_eq!(
            (&change.sequences, &change.changed_by),
            (&vec![1], &String::new())
        );
        assert_eq!(
            (change.revision, change.changed_at),
            (after.revision, after.updated_at)
        );
    }
    let undeleted = Event {
        is_deleted: true,
        deleted_at: deleted.deleted_at,
        ..Event::default()
    };
    let with_role = Event {
        role: created.role.clone(),
        ..Event::default()
    };
    let original = Event {
        importance_score: created.importance_score,
        meta: created.meta.clone(),
        ..Event::default()
    };
    let fields = vec!["meta_summary", "importance_score", "meta", "author"];
    assert_eq!(
        summary(&changes[0]),
        (ChangeKind::Restored, vec!["is_deleted"], undeleted, 4)
    );
    assert_eq!(
        summary(&changes[1]),
        (ChangeKind::Deleted, vec!["role", "is_deleted"], with_role, 3)
    );
    assert_eq!(summary(&changes[2]), (ChangeKind::Updated, fields, original, 2));
}

#[tokio::test]
async fn requests_that_change_nothing_draw_no_change_number() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let created = create(&mut server.events(), event(&spirit_id)).await;
    let role = || UpdateEventRequest {
        role: Some("user".to_owned()),
        ..of(&created)
    };
    update(&server, role()).await;
    update(&server, role()).await;
    let guarded = UpdateEventRequest {
        role: Some("tool".to_owned()),
        expected_revision: Some(1),
        ..of(&created)
    };
    let mismatch = server.events().update_event(guarded).await;
    refused(mismatch, Code::Aborted, "REVISION_MISMATCH");
    let nothing = RestoreEventRequest {
        event_id: created.id.clone(),
        ..RestoreEventRequest::default()
    };
    server.events().restore_event(nothing).await.unwrap();
    let of_no_session = SoftDeleteEventsRequest {
        spirit_id: spirit_id.clone(),
        session_id: Some("none".to_owned()),
        ..SoftDeleteEventsRequest::default()
    };
    server.events().soft_delete_events(of_no_session).await.unwrap();
    let (changes, _) = history(&server, &created.id, 0).await;
    assert_eq!((changes.len(), last_change(&server, &spirit_id).await), (1, 1));
}

#[tokio::test]
async fn bulk_changes_are_recorded_in_steps_and_listed_among_the_changes_of_each_event() {
    const EVENTS: i64 = 2_500;
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    insert_events(&server, &spirit_id, EVENTS).await;
    let request = pb::ListEventsRequest {
        spirit_id: spirit_id.clone(),
        order: pb::EventOrder::SequenceDesc.into(),
        page_size: 1,
        ..pb::ListEventsRequest::default()
    };
    let last = server
        .events()
        .list_events(request)
        .await
        .unwrap()
        .into_inner()
        .events
        .remove(0);
    let role = |role: &str| UpdateEventRequest {
        role: Some(role.to_owned()),
        ..of(&last)
    };
    update(&server, role("first")).await;
    let request = SoftDeleteEventsRequest {
        spirit_id: spirit_id.clone(),
        after_sequence: Some(0),
        ..SoftDeleteEventsRequest::default()
    };
    let deleted_at = server
        .events()
        .soft_delete_events(request)
        .await
        .unwrap()
        .into_inner()
        .deleted_at;
    let request = RestoreEventsRequest {
        spirit_id: spirit_id.clone(),
        deleted_at,
        ..RestoreEventsRequest::default()
    };
    server.events().restore_events(request).await.unwrap();
    update(&server, role("second")).await;

    assert_eq!(last_change(&server, &spirit_id).await, 8);
    let (changes, pages) = history(&server, &last.id, 1).await;
    assert_eq!(pages, 4);
    let numbers: Vec<(i64, ChangeKind)> = changes
        .iter()
        .map(|change| (change.change, change.kind()))
        .collect();
    let kinds = [
        ChangeKind::Updated,
        ChangeKind::Restored,
        ChangeKind::Deleted,
        ChangeKind::Updated,
    ];
    assert_eq!(numbers, [8, 7, 4, 1].into_iter().zip(kinds).collect::<Vec<_>>());
    let step = &changes[2];
    assert_eq!(step.sequences, (2_001..=EVENTS).collect::<Vec<_>>());
    assert_eq!(
        (step.event_ids.len(), step.event_ids.last()),
        (500, Some(&last.id))
    );
    assert_eq!(
        (&step.fields, &step.previous, step.revision),
        (&vec!["is_deleted".to_owned()], &None, 0)
    );
    assert_eq!(step.changed_at, deleted_at);
}

/// Twelve former values of 60 KB and a page limit of about 2 MiB: the first page of 40 ends early.
#[tokio::test]
async fn a_page_of_large_former_values_ends_early_and_continues() {
    const EDITS: usize = 40;
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let created = create(&mut server.events(), event(&spirit_id)).await;
    for n in 0..EDITS {
        let meta = object([("t", text(&format!("{n:02}").repeat(30_000)))]);
        update(
            &server,
            UpdateEventRequest {
                meta: Some(meta),
                ..of(&created)
            },
        )
        .await;
    }
    let (changes, pages) = history(&server, &created.id, 200).await;
    let numbers: Vec<i64> = changes.iter().map(|change| change.change).collect();
    assert_eq!(numbers, (1..=40).rev().collect::<Vec<_>>());
    assert_eq!(pages, 2);
}

#[tokio::test]
async fn changes_name_the_key_that_made_them_and_other_spirits_have_none() {
    let guarded = KeyedServer::start().await;
    let (own, foreign) = (
        guarded.admin.spirit("own").await,
        guarded.admin.spirit("foreign").await,
    );
    let event = guarded.admin.event(&own).await;
    let writer = guarded.caller(Role::Writer, &[&own]).await;
    let request = UpdateEventRequest {
        role: Some("user".to_owned()),
        ..of(&event)
    };
    guarded.admin.events().update_event(request).await.unwrap();
    let request = SoftDeleteEventRequest {
        event_id: event.id.clone(),
        ..Default::default()
    };
    let deleted = writer.events().soft_delete_event(request).await.unwrap();
    let request = RestoreEventsRequest {
        spirit_id: own.clone(),
        deleted_at: deleted.into_inner().event.unwrap().deleted_at,
        ..Default::default()
    };
    writer.events().restore_events(request).await.unwrap();

    let list = async |spirit_id: Option<&str>| {
        let request = ListEventChangesRequest {
            spirit_id: spirit_id.map(str::to_owned),
            ..of_event(&event.id)
        };
        let response = writer.events().list_event_changes(request).await.unwrap();
        response.into_inner().changes
    };
    let by: Vec<String> = list(None)
        .await
        .into_iter()
        .map(|change| change.changed_by)
        .collect();
    let (admin, writer_prefix) = (&guarded.admin.key.prefix, &writer.key.prefix);
    assert_eq!(by, [writer_prefix.as_str(), writer_prefix, admin]);
    assert_eq!(list(Some(&own)).await.len(), 3);
    assert_eq!(list(Some(&foreign)).await, []);
}

#[tokio::test]
async fn bad_fields_and_tokens_of_other_events_are_refused() {
    let server = TestServer::start().await;
    let request = ListEventChangesRequest {
        event_id: "1".to_owned(),
        spirit_id: Some("2".to_owned()),
        page_size: 201,
        page_token: String::new(),
    };
    let listed = server.events().list_event_changes(request).await;
    assert_eq!(bad_fields(listed), ["event_id", "spirit_id", "page_size"]);

    let spirit_id = server.spirit().await;
    let events = [(); 2].map(|()| event(&spirit_id));
    let [one, other] = events;
    let one = create(&mut server.events(), one).await;
    let other = create(&mut server.events(), other).await;
    for role in ["a", "b"] {
        update(
            &server,
            UpdateEventRequest {
                role: Some(role.to_owned()),
                ..of(&one)
            },
        )
        .await;
    }
    let request = ListEventChangesRequest {
        page_size: 1,
        ..of_event(&one.id)
    };
    let page_token = server
        .events()
        .list_event_changes(request)
        .await
        .unwrap()
        .into_inner()
        .next_page_token;
    let request = ListEventChangesRequest {
        page_token,
        ..of_event(&other.id)
    };
    let listed = server.events().list_event_changes(request).await;
    refused(listed, Code::InvalidArgument, "INVALID_CURSOR");
    assert_eq!(sequences(&[one, other]), [1, 2]);
}
