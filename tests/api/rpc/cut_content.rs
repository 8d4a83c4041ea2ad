//! `content_bytes_max`: reads that return the beginning of long content.

use elephantasm_events::grpc::pb::event_service_client::EventServiceClient;
use elephantasm_events::grpc::pb::stream_session_events_request::Start;
use elephantasm_events::grpc::pb::{
    CreateEventRequest, Event, EventOrder, EventView, GetEventRequest, ListEventsRequest,
    StreamSessionEventsRequest, WatchEventsRequest,
};
use tonic::transport::Channel;

use crate::rpc::long_values::toast_blocks_read;
use crate::support::builders::{drain, event_at, get, list, stream};
use crate::support::harness::{TestServer, eventually};
use crate::support::live::{after, beginning, watch, watch_through};
use crate::support::model::{pages, store};

const MIB: usize = 1024 * 1024;

/// The event as a read with this limit returns it.
fn cut(event: &Event, content_bytes_max: i32) -> Event {
    let max = usize::try_from(content_bytes_max).unwrap();
    let content = event.content();
    let mut end = max.min(content.len());
    while !content.is_char_boundary(end) {
        end -= 1;
    }
    Event {
        content: Some(content[..end].to_owned()),
        content_bytes: (content.len() > max).then(|| i64::try_from(content.len()).unwrap()),
        ..event.clone()
    }
}

/// Stores events with contents of these texts in a session `s` and returns them.
async fn events_with(server: &TestServer, contents: &[String]) -> (String, Vec<Event>) {
    let spirit_id = server.spirit().await;
    let requests = (0..).zip(contents).map(|(n, content)| CreateEventRequest {
        content: Some(content.clone()),
        ..event_at(&spirit_id, "s", n)
    });
    let events = store(&mut server.events(), requests.collect()).await;
    (spirit_id, events)
}

/// Every event of the session, read by each RPC with this limit.
async fn read_by_every_rpc(server: &TestServer, events: &[Event], max: i32) -> Vec<Vec<Event>> {
    let spirit_id = events[0].spirit_id();
    let content_bytes_max = Some(max);
    let mut got = Vec::new();
    for event in events {
        let request = GetEventRequest {
            content_bytes_max,
            ..get(&event.id)
        };
        let reply = server.events().get_event(request).await.unwrap();
        got.extend(reply.into_inner().event);
    }
    let mut reads = vec![got];
    for order in [EventOrder::OldestFirst, EventOrder::Sequence] {
        let request = ListEventsRequest {
            content_bytes_max,
            order: order.into(),
            page_size: 200,
            ..list(spirit_id)
        };
        reads.push(pages(&mut server.events(), request).await.concat());
        let request = StreamSessionEventsRequest {
            content_bytes_max,
            order: order.into(),
            ..stream(spirit_id, "s")
        };
        let replay = server.events().stream_session_events(request).await.unwrap();
        let items = drain(replay.into_inner()).await.unwrap();
        reads.push(items.into_iter().map(|(event, _)| event).collect());
    }
    for session_id in [None, Some("s".to_owned())] {
        let request = WatchEventsRequest {
            content_bytes_max,
            session_id,
            ..beginning(spirit_id)
        };
        let mut watcher = watch(server, request).await.unwrap();
        let mut watched = Vec::new();
        for _ in events {
            watched.push(watcher.event().await.0);
        }
        reads.push(watched);
    }
    reads
}

#[tokio::test]
async fn every_read_cuts_longer_content_at_a_code_point_and_returns_its_full_length() {
    let server = TestServer::start().await;
    let mut contents: Vec<String> = ["", "a", "é", "🐘", "aé🐘"].map(str::to_owned).into();
    for length in [4_095, 4_096, 4_097, 300_000] {
        for text in ["x", "é", "🐘", "aé🐘"] {
            contents.push(text.repeat(length / text.len() + 1));
        }
    }
    let (_, events) = events_with(&server, &contents).await;
    for max in [1, 2, 3, 5, 4_095, 4_096, 4_098, 300_001, i32::MAX] {
        let expected: Vec<Event> = events.iter().map(|event| cut(event, max)).collect();
        for (rpc, read) in read_by_every_rpc(&server, &events, max).await.iter().enumerate() {
            assert!(*read == expected, "read {rpc} cut to {max} bytes");
        }
    }
}

#[tokio::test]
async fn the_basic_view_has_no_content_to_cut() {
    let server = TestServer::start().await;
    let (spirit_id, _) = events_with(&server, &["x".repeat(9_000)]).await;
    let request = ListEventsRequest {
        content_bytes_max: Some(1),
        view: EventView::Basic.into(),
        ..list(&spirit_id)
    };
    let read = pages(&mut server.events(), request).await.concat();
    assert_eq!((&read[0].content, read[0].content_bytes), (&None, None));
}

#[tokio::test]
async fn a_page_counts_what_is_left_of_content_and_the_next_one_may_cut_otherwise() {
    let server = TestServer::start().await;
    let (spirit_id, events) = events_with(&server, &vec!["x".repeat(400_000); 7]).await;
    let request = ListEventsRequest {
        content_bytes_max: Some(300_000),
        ..list(&spirit_id)
    };
    let sizes = |pages: &[Vec<Event>]| pages.iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(
        sizes(&pages(&mut server.events(), list(&spirit_id)).await),
        [5, 2]
    );
    assert_eq!(sizes(&pages(&mut server.events(), request).await), [6, 1]);

    let mut request = ListEventsRequest {
        order: EventOrder::Sequence.into(),
        page_size: 1,
        ..list(&spirit_id)
    };
    for (event, max) in events.iter().zip([Some(1), None, Some(4_096), Some(4_097)]) {
        request.content_bytes_max = max;
        let page = server.events().list_events(request.clone()).await.unwrap();
        let page = page.into_inner();
        let expected = max.map_or_else(|| event.clone(), |max| cut(event, max));
        assert!(page.events == [expected], "{max:?}");
        request.page_token = page.next_page_token;
    }
}

#[tokio::test]
async fn a_resumed_stream_may_cut_otherwise() {
    let server = TestServer::start().await;
    let (spirit_id, events) = events_with(&server, &["é".repeat(10), "é".repeat(9_000)]).await;
    let request = StreamSessionEventsRequest {
        content_bytes_max: Some(5),
        limit: 1,
        ..stream(&spirit_id, "s")
    };
    let replay = server
        .events()
        .stream_session_events(request.clone())
        .await
        .unwrap();
    let [(first, cursor)] = drain(replay.into_inner()).await.unwrap().try_into().unwrap();
    assert_eq!(first, cut(&events[0], 5));
    let request = StreamSessionEventsRequest {
        content_bytes_max: Some(7),
        start: Some(Start::AfterCursor(cursor)),
        ..request
    };
    let replay = server.events().stream_session_events(request).await.unwrap();
    let [(second, _)] = drain(replay.into_inner()).await.unwrap().try_into().unwrap();
    assert_eq!(second, cut(&events[1], 7));

    // Streams that wait for the same page share a read only if they cut alike.
    let mut watchers = Vec::new();
    for content_bytes_max in [None, Some(1), Some(6_000), None] {
        let request = WatchEventsRequest {
            content_bytes_max,
            ..after(&spirit_id, 2)
        };
        let mut watcher = watch(&server, request).await.unwrap();
        watcher.caught_up().await;
        watchers.push((content_bytes_max, watcher));
    }
    let request = CreateEventRequest {
        content: Some("é".repeat(9_000)),
        ..event_at(&spirit_id, "s", 5)
    };
    let [stored] = store(&mut server.events(), vec![request])
        .await
        .try_into()
        .unwrap();
    for (max, mut watcher) in watchers {
        let expected = max.map_or_else(|| stored.clone(), |max| cut(&stored, max));
        assert!(watcher.event().await.0 == expected, "{max:?}");
    }
}

#[tokio::test]
async fn an_event_of_twenty_mebibytes_passes_a_client_that_accepts_four() {
    const CONTENT_BYTES: usize = 20 * MIB;
    let server = TestServer::start_with(|settings| {
        settings.server.limits.content_bytes_max = CONTENT_BYTES;
        settings.server.message_bytes_max = CONTENT_BYTES + MIB;
    })
    .await;
    let spirit_id = server.spirit().await;
    let request = CreateEventRequest {
        content: Some("é".repeat(CONTENT_BYTES / 2)),
        reply_view: EventView::Basic.into(),
        ..event_at(&spirit_id, "s", 1)
    };
    // Accepts messages of 4 MiB, tonic's default, and sends larger ones.
    let mut client: EventServiceClient<Channel> = EventServiceClient::new(server.channel());
    let created = client
        .create_event(request)
        .await
        .unwrap()
        .into_inner()
        .event
        .unwrap();
    let content_bytes_max = Some(1_001);
    let assert_cut = |event: Event| {
        assert_eq!(event.content(), "é".repeat(500));
        assert_eq!(event.content_bytes, Some(20 * 1024 * 1024));
    };
    let request = GetEventRequest {
        content_bytes_max,
        ..get(&created.id)
    };
    assert_cut(
        client
            .get_event(request)
            .await
            .unwrap()
            .into_inner()
            .event
            .unwrap(),
    );
    let request = ListEventsRequest {
        content_bytes_max,
        ..list(&spirit_id)
    };
    let mut listed = client.list_events(request).await.unwrap().into_inner().events;
    assert_cut(listed.pop().unwrap());
    let request = StreamSessionEventsRequest {
        content_bytes_max,
        ..stream(&spirit_id, "s")
    };
    let replay = client.stream_session_events(request).await.unwrap();
    let mut replayed = drain(replay.into_inner()).await.unwrap();
    assert_cut(replayed.pop().unwrap().0);
    let request = WatchEventsRequest {
        content_bytes_max,
        ..beginning(&spirit_id)
    };
    assert_cut(watch_through(server.channel(), request).await.event().await.0);
    let whole = client.get_event(get(&created.id)).await;
    assert!(whole.is_err(), "the client refuses the whole event");
}

#[tokio::test]
async fn the_rest_of_cut_content_is_not_read() {
    // Content of 10 MiB that does not compress takes 5,254 chunks.
    const BLOCKS_MAX: i64 = 100;
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut connection = server.database.connect().await;
    let (id,): (String,) = sqlx::query_as(
        "insert into events (id, spirit_id, sequence, event_type, content, occurred_at)
         select gen_random_uuid(), $1::text::uuid, 1, 'message.in',
             (select string_agg(md5(part::text), '') from generate_series(1, 327680) as part), now()
         returning id::text",
    )
    .bind(&spirit_id)
    .fetch_one(&mut connection)
    .await
    .unwrap();
    drop(connection);
    let before = toast_blocks_read(&server.database).await;
    let request = GetEventRequest {
        content_bytes_max: Some(1_000),
        ..get(&id)
    };
    let reply = server.events().get_event(request).await.unwrap().into_inner();
    assert_eq!(reply.event.unwrap().content_bytes, Some(10 * 1024 * 1024));
    let request = ListEventsRequest {
        content_bytes_max: Some(1_000),
        ..list(&spirit_id)
    };
    let page = server.events().list_events(request).await.unwrap().into_inner();
    assert_eq!(page.events[0].content().len(), 1_000);
    let database = server.database.clone();
    server.stop().await.unwrap(); // PostgreSQL counts the blocks of a session at its end
    let read = eventually("the blocks of the sessions are counted", async || {
        let read = toast_blocks_read(&database).await - before;
        (read > 0).then_some(read)
    })
    .await;
    assert!(read <= BLOCKS_MAX, "{read} blocks were read");
}
