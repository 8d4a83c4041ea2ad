//! What a key that is limited to some spirits learns of others, where one call says more than yes or no.

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

use crate::auth::keys_by_rpc::{Subject, first, new_subject};
use crate::support::access::{Caller, Guarded};
use crate::support::builders::{event, keyed, metadata, refused, stream};

/// A key that writes one spirit, and items about this one and others.
async fn writer_and_items(guarded: &Guarded) -> (Caller, String, [CreateEventRequest; 5]) {
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

/// Two spirits, each with an event, and a caller whose key knows of the first alone.
async fn own_and_foreign(guarded: &Guarded, role: Role) -> (Subject, Subject, Caller) {
    let own = new_subject(guarded, "own").await;
    let foreign = new_subject(guarded, "foreign").await;
    let caller = guarded.caller(role, &[&own.spirit_id]).await;
    (own, foreign, caller)
}

#[tokio::test]
async fn items_of_a_batch_for_foreign_spirits_are_refused_as_those_of_unknown_ones() {
    let guarded = Guarded::start().await;
    let (writer, foreign, items) = writer_and_items(&guarded).await;
    let request = BatchCreateEventsRequest {
        requests: items.into(),
        mode: BatchMode::Atomic.into(),
    };
    let atomic = writer.events().batch_create_events(request.clone()).await;
    let status = refused(atomic, Code::NotFound, "SPIRIT_NOT_FOUND");
    assert_eq!(metadata(&status, "failed_indexes"), "1,3,4");
    let told = status.get_details_resource_info().expect("ResourceInfo");
    assert_eq!(told.resource_name, foreign);
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
async fn so_are_those_of_an_ingest() {
    let guarded = Guarded::start().await;
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
async fn a_limited_key_lists_and_counts_its_own_spirits_page_by_page() {
    let guarded = Guarded::start().await;
    let mut ids = Vec::new();
    for name in ["Ada", "Bert", "Adam", "Cleo", "Adele", "Dora"] {
        ids.push(guarded.admin.spirit(name).await);
    }
    let own: Vec<&str> = [0, 1, 2, 4].map(|at| ids[at].as_str()).into();
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
async fn following_a_foreign_session_finds_no_spirit() {
    let guarded = Guarded::start().await;
    let (own, foreign, reader) = own_and_foreign(&guarded, Role::Reader).await;
    let follow = |about: &Subject| StreamSessionEventsRequest {
        follow: true,
        ..stream(&about.spirit_id, "s")
    };
    assert!(
        first(reader.events().stream_session_events(follow(&own)).await)
            .await
            .unwrap()
    );
    let followed = reader.events().stream_session_events(follow(&foreign)).await;
    refused(followed, Code::NotFound, "SPIRIT_NOT_FOUND");
}

#[tokio::test]
async fn naming_an_own_spirit_does_not_open_a_foreign_event() {
    let guarded = Guarded::start().await;
    let (own, foreign, reader) = own_and_foreign(&guarded, Role::Reader).await;
    for spirit_id in [&own.spirit_id, &foreign.spirit_id] {
        let request = GetEventRequest {
            event_id: foreign.event_id.clone(),
            spirit_id: Some(spirit_id.clone()),
            include_deleted: true,
        };
        let got = reader.events().get_event(request).await;
        refused(got, Code::NotFound, "EVENT_NOT_FOUND");
    }
}

#[tokio::test]
async fn an_event_is_foreign_also_when_somebody_else_reads_it_at_the_same_time() {
    const PAIRS: usize = 50;
    let guarded = Guarded::start().await;
    let (own, foreign, reader) = own_and_foreign(&guarded, Role::Reader).await;
    let get = async |caller: &Caller, about: &Subject| {
        let request = GetEventRequest {
            event_id: about.event_id.clone(),
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
    for (of_admin, of_reader, of_own) in join_all(calls).await {
        assert!(of_admin.is_ok() && of_own.is_ok());
        assert_eq!(of_reader.map(|_| ()), Err(Code::NotFound));
    }
}

#[tokio::test]
async fn a_dedupe_key_that_a_foreign_spirit_has_tells_nothing() {
    let guarded = Guarded::start().await;
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
