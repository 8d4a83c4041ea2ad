//! API keys scoped to a list of spirits, in batches, streams, lists and look-ups that could reveal a foreign
//! spirit.
//!
//! An *own* spirit is in the scope of the caller's key, a *foreign* one is not. A foreign spirit must be
//! indistinguishable from one that does not exist.

use elephantasm_events::domain::access::Role;
use elephantasm_events::grpc::pb::batch_create_events_result::Result as BatchItem;
use elephantasm_events::grpc::pb::ingest_events_response::Result as IngestItem;
use elephantasm_events::grpc::pb::{
    BatchCreateEventsRequest, BatchMode, CountSpiritsRequest, CreateEventRequest, GetEventRequest,
    IngestEventsRequest, ListSpiritsRequest, StreamSessionEventsRequest,
};
use futures_util::future::join_all;
use tonic::Code;
use tonic_types::StatusExt as _;
use uuid::Uuid;

use crate::auth::calls::{Subject, sends_a_message};
use crate::auth::keys_by_rpc::create_subject;
use crate::support::access::{Caller, KeyedServer};
use crate::support::builders::{event, keyed, metadata, refused, stream};

/// A writer whose key is scoped to one spirit, the id of a foreign spirit, and items for own, foreign and
/// unknown spirits.
async fn writer_and_items(guarded: &KeyedServer) -> (Caller, String, [CreateEventRequest; 5]) {
    let (own, foreign) = (
        guarded.admin.spirit("own").await,
        guarded.admin.spirit("foreign").await,
    );
    let writer = guarded.caller(Role::Writer, &[&own]).await;
    let items = [
        event(&own),
        event(&foreign),
        keyed(&own, "k"),
        keyed(&own, "k"),
        event(&Uuid::nil().to_string()),
    ];
    (writer, foreign, items)
}

/// Two spirits with an event each, and a caller whose key is scoped to the first.
async fn own_and_foreign(guarded: &KeyedServer, role: Role) -> (Subject, Subject, Caller) {
    let own = create_subject(guarded, "own").await;
    let foreign = create_subject(guarded, "foreign").await;
    let caller = guarded.caller(role, &[&own.spirit_id]).await;
    (own, foreign, caller)
}

#[tokio::test]
async fn batch_items_for_spirits_outside_the_key_scope_fail_like_unknown_spirits() {
    let guarded = KeyedServer::start().await;
    let (writer, foreign, items) = writer_and_items(&guarded).await;
    let request = BatchCreateEventsRequest {
        requests: items.into(),
        mode: BatchMode::Atomic.into(),
    };
    let atomic = writer.events().batch_create_events(request.clone()).await;
    let status = refused(atomic, Code::NotFound, "SPIRIT_NOT_FOUND");
    assert_eq!(metadata(&status, "failed_indexes"), "1,3,4");
    let resource = status.get_details_resource_info().expect("ResourceInfo");
    assert_eq!(resource.resource_name, foreign);
    assert!(status.message().starts_with("requests[1]: "), "{status:?}");

    let request = BatchCreateEventsRequest {
        mode: BatchMode::Partial.into(),
        ..request
    };
    let partial = writer.events().batch_create_events(request).await;
    let results = partial.unwrap().into_inner().results.into_iter();
    let codes = results.map(|result| match result.result.unwrap() {
        BatchItem::Created(_) => Code::Ok,
        BatchItem::Error(error) => error.code.into(),
    });
    let expected = [
        Code::Ok,
        Code::NotFound,
        Code::Ok,
        Code::AlreadyExists,
        Code::NotFound,
    ];
    assert_eq!(codes.collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn ingest_items_for_spirits_outside_the_key_scope_fail_like_unknown_spirits() {
    let guarded = KeyedServer::start().await;
    let (writer, _, items) = writer_and_items(&guarded).await;
    let requests = items.map(|item| IngestEventsRequest {
        create: Some(item),
        ..Default::default()
    });
    let replies = writer.events().ingest_events(tokio_stream::iter(requests)).await;
    let mut replies = replies.unwrap().into_inner();
    let mut codes = Vec::new();
    while let Some(reply) = replies.message().await.unwrap() {
        codes.push(match reply.result.unwrap() {
            IngestItem::Receipt(_) => Code::Ok,
            IngestItem::Error(error) => error.code.into(),
        });
    }
    let expected = [
        Code::Ok,
        Code::NotFound,
        Code::Ok,
        Code::AlreadyExists,
        Code::NotFound,
    ];
    assert_eq!(codes, expected);
}

#[tokio::test]
async fn a_scoped_key_lists_and_counts_only_its_own_spirits_page_by_page() {
    let guarded = KeyedServer::start().await;
    let mut ids = Vec::new();
    for name in ["Ada", "Bert", "Adam", "Cleo", "Adele", "Dora"] {
        ids.push(guarded.admin.spirit(name).await);
    }
    let own: Vec<&str> = [0, 1, 2, 4].map(|index| ids[index].as_str()).into();
    let reader = guarded.caller(Role::Reader, &own).await;
    for (name_contains, expected) in [
        (None, vec!["Adele", "Adam", "Bert", "Ada"]),
        (Some("ad"), vec!["Ada", "Adam", "Adele"]),
        (Some("cleo"), vec![]),
    ] {
        let mut request = ListSpiritsRequest {
            name_contains: name_contains.map(str::to_owned),
            page_size: 2,
            ..Default::default()
        };
        let mut names = Vec::new();
        loop {
            let page = reader
                .spirits()
                .list_spirits(request.clone())
                .await
                .unwrap()
                .into_inner();
            names.extend(page.spirits.iter().map(|spirit| spirit.name().to_owned()));
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        assert_eq!(names, expected, "{name_contains:?}");
    }
    for (caller, count) in [(&reader, 4), (&guarded.admin, 6)] {
        let counted = caller
            .spirits()
            .count_spirits(CountSpiritsRequest::default())
            .await;
        assert_eq!(counted.unwrap().into_inner().count, count);
    }
}

#[tokio::test]
async fn following_a_session_outside_the_key_scope_fails_like_an_unknown_spirit() {
    let guarded = KeyedServer::start().await;
    let (own, foreign, reader) = own_and_foreign(&guarded, Role::Reader).await;
    let follow = |subject: &Subject| StreamSessionEventsRequest {
        follow: true,
        ..stream(&subject.spirit_id, "s")
    };
    assert!(
        sends_a_message(reader.events().stream_session_events(follow(&own)).await)
            .await
            .unwrap()
    );
    let followed = reader.events().stream_session_events(follow(&foreign)).await;
    refused(followed, Code::NotFound, "SPIRIT_NOT_FOUND");
}

#[tokio::test]
async fn get_event_hides_a_foreign_event_even_when_an_own_spirit_is_named() {
    let guarded = KeyedServer::start().await;
    let (own, foreign, reader) = own_and_foreign(&guarded, Role::Reader).await;
    for spirit_id in [&own.spirit_id, &foreign.spirit_id] {
        let request = GetEventRequest {
            event_id: foreign.event_id.clone(),
            spirit_id: Some(spirit_id.clone()),
            include_deleted: true,
            ..GetEventRequest::default()
        };
        let got = reader.events().get_event(request).await;
        refused(got, Code::NotFound, "EVENT_NOT_FOUND");
    }
}

#[tokio::test]
async fn concurrent_get_event_calls_for_one_event_keep_to_the_scope_of_each_key() {
    const PAIRS: usize = 50;
    let guarded = KeyedServer::start().await;
    let (own, foreign, reader) = own_and_foreign(&guarded, Role::Reader).await;
    let get = async |caller: &Caller, subject: &Subject| {
        let request = GetEventRequest {
            event_id: subject.event_id.clone(),
            ..Default::default()
        };
        caller
            .events()
            .get_event(request)
            .await
            .map_err(|status| status.code())
    };
    let calls = (0..PAIRS).map(async |_| {
        tokio::join!(
            get(&guarded.admin, &foreign),
            get(&reader, &foreign),
            get(&reader, &own)
        )
    });
    for (foreign_for_admin, foreign_for_reader, own_for_reader) in join_all(calls).await {
        assert!(foreign_for_admin.is_ok() && own_for_reader.is_ok());
        assert_eq!(foreign_for_reader.map(|_| ()), Err(Code::NotFound));
    }
}

#[tokio::test]
async fn a_dedupe_key_used_in_a_foreign_spirit_is_not_revealed() {
    let guarded = KeyedServer::start().await;
    let (own, foreign, writer) = own_and_foreign(&guarded, Role::Writer).await;
    guarded
        .admin
        .events()
        .create_event(keyed(&foreign.spirit_id, "k"))
        .await
        .unwrap();
    let created = writer.events().create_event(keyed(&foreign.spirit_id, "k")).await;
    refused(created, Code::NotFound, "SPIRIT_NOT_FOUND");
    writer
        .events()
        .create_event(keyed(&own.spirit_id, "k"))
        .await
        .unwrap();
}
