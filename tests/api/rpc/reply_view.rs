//! `CreateEventRequest.reply_view`: the view of the event in the reply to a create.

use elephantasm_events::grpc::pb::batch_create_events_result::Result as Item;
use elephantasm_events::grpc::pb::{
    BatchCreateEventsRequest, CreateEventRequest, CreateOutcome, Event, EventView, OnDuplicate,
};

use crate::streams::ingest_events::Ingest;
use crate::support::builders::{keyed, number, object, stored_event};
use crate::support::harness::TestServer;
use crate::support::model::delete;

/// A create with content, meta and a dedupe key that returns an existing event.
fn request(spirit_id: &str, view: EventView) -> CreateEventRequest {
    CreateEventRequest {
        meta: Some(object([("n", number(1.0))])),
        meta_summary: Some("summary".to_owned()),
        on_duplicate: OnDuplicate::ReturnExisting.into(),
        reply_view: view.into(),
        ..keyed(spirit_id, "k")
    }
}

/// The event as the BASIC view shows it.
fn basic(event: &Event) -> Event {
    Event {
        content: None,
        meta: None,
        ..event.clone()
    }
}

#[tokio::test]
async fn a_basic_reply_has_everything_but_content_and_meta_for_new_events_and_duplicates() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut events = server.events();
    let mut reply = async |request: CreateEventRequest| {
        let reply = events.create_event(request).await.unwrap().into_inner();
        (reply.outcome(), reply.event.unwrap())
    };
    let (outcome, created) = reply(request(&spirit_id, EventView::Basic)).await;
    let mut stored = stored_event(&mut server.events(), &created.id).await;
    assert_eq!(stored.content(), "hello");
    assert_eq!((outcome, &created), (CreateOutcome::Created, &basic(&stored)));

    let different = CreateEventRequest {
        content: Some("other".to_owned()),
        ..request(&spirit_id, EventView::Basic)
    };
    for is_deleted in [false, true] {
        for (request, expected) in [
            (request(&spirit_id, EventView::Basic), CreateOutcome::Duplicate),
            (different.clone(), CreateOutcome::DuplicateDifferent),
        ] {
            assert_eq!(reply(request).await, (expected, basic(&stored)));
        }
        for view in [EventView::Full, EventView::Unspecified] {
            let full = reply(request(&spirit_id, view)).await;
            assert_eq!(full, (CreateOutcome::Duplicate, stored.clone()));
        }
        if !is_deleted {
            delete(&mut server.events(), &mut stored).await;
        }
    }
}

#[tokio::test]
async fn reply_view_has_no_effect_in_batches_and_ingest_streams() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    for view in [EventView::Full, EventView::Basic] {
        let request = request(&spirit_id, view);
        let batch = BatchCreateEventsRequest {
            requests: vec![request.clone()],
            ..BatchCreateEventsRequest::default()
        };
        let reply = server.events().batch_create_events(batch).await.unwrap();
        let [result] = reply.into_inner().results.try_into().unwrap();
        let Some(Item::Created(created)) = result.result else {
            panic!("not created: {result:?}")
        };
        let event = created.event.unwrap();
        assert_eq!(event, basic(&stored_event(&mut server.events(), &event.id).await));

        let ingest = Ingest::open(&server).await;
        ingest.send("1", request).await;
        assert_eq!(ingest.finish().await.len(), 1);
    }
}
