//! Every call is counted once, by its method and its status code.

use elephantasm_events::grpc::pb::{CreateEventRequest, GetEventRequest};
use tonic::Code;
use tonic::codegen::http::uri::PathAndQuery;
use tonic_prost::ProstCodec;

use crate::support::builders::{create, drain, event, event_at, keyed, lock_spirit, refused, stream};
use crate::support::harness::{TestServer, eventually};
use crate::support::live::{beginning, delete_spirit, watch};
use crate::support::scrape::Scrape;

#[tokio::test]
async fn unary_calls_are_counted_by_method_and_code() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut events = server.events();
    create(&mut events, keyed(&spirit_id, "k")).await;
    create(&mut events, event(&spirit_id)).await;
    let taken = events.create_event(keyed(&spirit_id, "k")).await;
    refused(taken, Code::AlreadyExists, "DUPLICATE_EVENT");
    let bad = events.create_event(CreateEventRequest::default()).await;
    refused(bad, Code::InvalidArgument, "INVALID_FIELD");
    let unknown = GetEventRequest {
        event_id: spirit_id.clone(),
        ..GetEventRequest::default()
    };
    refused(events.get_event(unknown).await, Code::NotFound, "EVENT_NOT_FOUND");

    let scrape = Scrape::of(&server).await;
    assert_eq!(scrape.started("CreateEvent"), 4);
    assert_eq!(scrape.handled("CreateEvent", "OK"), 2);
    assert_eq!(scrape.handled("CreateEvent", "ALREADY_EXISTS"), 1);
    assert_eq!(scrape.handled("CreateEvent", "INVALID_ARGUMENT"), 1);
    assert_eq!(
        scrape.handled("CreateEvent", "INTERNAL"),
        0,
        "the series exists before the first INTERNAL"
    );
    assert_eq!(scrape.timed("CreateEvent"), 4);
    assert_eq!(scrape.handled("GetEvent", "NOT_FOUND"), 1);
    assert_eq!(scrape.handled("CreateSpirit", "OK"), 1);
    assert_eq!(scrape.started("ListEvents"), 0);
}

#[tokio::test]
async fn a_stream_is_counted_at_its_end_with_the_status_code_of_its_trailers() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    create(&mut server.events(), event_at(&spirit_id, "s", 1)).await;
    let replay = server
        .events()
        .stream_session_events(stream(&spirit_id, "s"))
        .await;
    assert_eq!(drain(replay.unwrap().into_inner()).await.unwrap().len(), 1);
    let mut deleted_watcher = watch(&server, beginning(&spirit_id)).await.unwrap();
    let mut dropped_watcher = watch(&server, beginning(&spirit_id)).await.unwrap();
    for reader in [&mut deleted_watcher, &mut dropped_watcher] {
        assert_eq!(reader.sequences(1).await, [1]);
        assert_eq!(reader.caught_up().await, 1);
    }

    let scrape = Scrape::of(&server).await;
    assert_eq!(scrape.handled("StreamSessionEvents", "OK"), 1);
    assert_eq!(scrape.started("WatchEvents"), 2);
    assert_eq!(scrape.timed("WatchEvents"), 0, "neither watch has ended");

    drop(dropped_watcher);
    eventually("the cancelled watch is counted", async || {
        let scrape = Scrape::of(&server).await;
        (scrape.handled("WatchEvents", "CANCELLED") == 1).then_some(())
    })
    .await;
    delete_spirit(&server, &spirit_id).await;
    refused(deleted_watcher.next().await, Code::NotFound, "SPIRIT_NOT_FOUND");
    let scrape = Scrape::of(&server).await;
    assert_eq!(scrape.handled("WatchEvents", "NOT_FOUND"), 1);
    assert_eq!(scrape.timed("WatchEvents"), 2);
}

#[tokio::test]
async fn calls_of_unknown_methods_share_one_series() {
    let server = TestServer::start().await;
    let before = Scrape::of(&server).await.text.lines().count();
    let mut grpc = tonic::client::Grpc::new(server.channel());
    for number in 0..20 {
        grpc.ready().await.unwrap();
        let path = format!("/elephantasm.events.v1.EventService/Made{number}Up");
        let codec: ProstCodec<GetEventRequest, GetEventRequest> = ProstCodec::default();
        let request = tonic::Request::new(GetEventRequest::default());
        let path = PathAndQuery::try_from(path).unwrap();
        let answer = grpc.unary(request, path, codec).await;
        assert_eq!(answer.unwrap_err().code(), Code::Unimplemented);
    }
    let scrape = Scrape::of(&server).await;
    assert_eq!(scrape.handled("unknown", "UNIMPLEMENTED"), 20);
    assert_eq!(scrape.text.lines().count(), before);
}

#[tokio::test]
async fn a_call_that_its_caller_abandons_is_counted_as_cancelled() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut connection = server.database.connect().await;
    let spirit_lock = lock_spirit(&mut connection, &spirit_id).await;
    let mut events = server.events();
    let waiting_create = tokio::spawn(async move { events.create_event(event(&spirit_id)).await });
    eventually("the call has started", async || {
        (Scrape::of(&server).await.started("CreateEvent") == 1).then_some(())
    })
    .await;
    waiting_create.abort();
    eventually("its end is counted", async || {
        (Scrape::of(&server).await.handled("CreateEvent", "CANCELLED") == 1).then_some(())
    })
    .await;
    spirit_lock.rollback().await.unwrap();
}
