//! `StreamSessionEvents` without `follow`: replay order, start, limit, upper bound and resuming.

use elephantasm_events::grpc::pb::stream_session_events_request::Start;
use elephantasm_events::grpc::pb::{
    Event, EventFilter, EventOrder, EventView, SoftDeleteEventRequest, SoftDeleteSpiritRequest,
    StreamSessionEventsRequest, StreamSessionEventsResponse, UpdateEventRequest,
    stream_session_events_response::Item,
};
use tonic::{Code, Status};

use crate::support::builders::{at, create, drain, event_at, metadata, refused, stream};
use crate::support::harness::TestServer;
use crate::support::model::{filters, sample_spirit, select, sequences, store};

/// Replays a session to the end of the stream.
async fn replay(server: &TestServer, request: StreamSessionEventsRequest) -> Result<Vec<Event>, Status> {
    Ok(replay_with_cursors(server, request)
        .await?
        .into_iter()
        .map(|(event, _)| event)
        .collect())
}

/// Asserts that a replay returns these events.
async fn assert_replays(
    server: &TestServer,
    request: StreamSessionEventsRequest,
    expected: &[&Event],
    what: &str,
) {
    let replayed = replay(server, request).await.unwrap();
    assert_eq!(replayed.iter().collect::<Vec<_>>(), expected, "{what}");
}

/// Replays a session to the end of the stream, with the cursor of each event.
async fn replay_with_cursors(
    server: &TestServer,
    request: StreamSessionEventsRequest,
) -> Result<Vec<(Event, String)>, Status> {
    drain(server.events().stream_session_events(request).await?.into_inner()).await
}

/// Replays a session after a cursor.
fn after(spirit_id: &str, session_id: &str, cursor: &str) -> StreamSessionEventsRequest {
    StreamSessionEventsRequest {
        start: Some(Start::AfterCursor(cursor.to_owned())),
        ..stream(spirit_id, session_id)
    }
}

/// Events of 16 KiB in a long session, at seconds 1 to 1,000: far
/// more than the connection and both ends buffer.
const LONG_SESSION_EVENTS: i64 = 1_000;

/// Creates a session of [`LONG_SESSION_EVENTS`] events in sequence order; returns the ids of the spirit and
/// of the events.
async fn long_session(server: &TestServer) -> (String, Vec<String>) {
    let spirit_id = server.spirit().await;
    let mut connection = server.database.connect().await;
    let ids: Vec<(String,)> = sqlx::query_as(
        "with advanced as (update spirits set last_sequence = $2 where id = $1::text::uuid)
         insert into events (id, spirit_id, sequence, event_type, content, occurred_at, session_id)
         select gen_random_uuid(), $1::text::uuid, n, 'message.in', repeat('x', 16384), to_timestamp(n), 's'
         from generate_series(1, $2) as n
         returning id::text",
    )
    .bind(&spirit_id)
    .bind(LONG_SESSION_EVENTS)
    .fetch_all(&mut connection)
    .await
    .unwrap();
    (spirit_id, ids.into_iter().map(|(id,)| id).collect())
}

#[tokio::test]
async fn a_replay_sends_every_event_that_matches_the_filter_in_replay_order() {
    let server = TestServer::start().await;
    let (spirit_id, events) = sample_spirit(&server).await;
    for (name, filter) in filters() {
        for session in ["a", "ü", "unknown"] {
            let request = StreamSessionEventsRequest {
                filter: Some(filter.clone()),
                ..stream(&spirit_id, session)
            };
            let expected = select(&events, Some(session), &filter, EventOrder::OldestFirst);
            assert_replays(&server, request, &expected, &format!("{name}, session {session}")).await;
        }
    }
}

#[tokio::test]
async fn start_and_limit_of_a_replay_apply_after_the_filter() {
    let server = TestServer::start().await;
    let (spirit_id, events) = sample_spirit(&server).await;
    for (name, filter) in filters() {
        let all = select(&events, Some("a"), &filter, EventOrder::OldestFirst);
        let last = |n: usize| all[all.len().saturating_sub(n)..].to_vec();
        let from = |seconds| {
            let occurred_since = all
                .iter()
                .filter(|event| event.occurred_at.unwrap().seconds >= seconds);
            occurred_since.copied().collect::<Vec<_>>()
        };
        let starts = [
            (None, all.clone()),
            (Some(Start::LastN(1)), last(1)),
            (Some(Start::LastN(3)), last(3)),
            (Some(Start::LastN(i32::MAX)), all.clone()),
            (Some(Start::FromTime(at(1_007))), from(1_007)),
            (Some(Start::FromTime(at(1_008))), from(1_008)),
            (Some(Start::FromTime(at(-62_135_596_800))), all.clone()),
            (Some(Start::FromTime(at(2_000))), Vec::new()),
        ];
        for (start, expected) in starts {
            for limit in [0, 2, 100] {
                let request = StreamSessionEventsRequest {
                    filter: Some(filter.clone()),
                    start: start.clone(),
                    limit,
                    ..stream(&spirit_id, "a")
                };
                let limited = match usize::try_from(limit).unwrap() {
                    0 => &expected[..],
                    limit => &expected[..limit.min(expected.len())],
                };
                assert_replays(
                    &server,
                    request,
                    limited,
                    &format!("{name}, {start:?}, limit {limit}"),
                )
                .await;
            }
        }
    }
}

#[tokio::test]
async fn the_basic_view_of_a_replay_omits_only_content_and_meta() {
    let server = TestServer::start().await;
    let (spirit_id, events) = sample_spirit(&server).await;
    let request = StreamSessionEventsRequest {
        view: EventView::Basic.into(),
        ..stream(&spirit_id, "a")
    };
    let expected: Vec<Event> = select(
        &events,
        Some("a"),
        &EventFilter::default(),
        EventOrder::OldestFirst,
    )
    .into_iter()
    .map(|event| Event {
        content: None,
        meta: None,
        ..event.clone()
    })
    .collect();
    assert_eq!(replay(&server, request).await.unwrap(), expected);
}

#[tokio::test]
async fn resuming_after_any_cursor_replays_exactly_the_remaining_events() {
    let server = TestServer::start().await;
    let (spirit_id, _) = sample_spirit(&server).await;
    for (name, filter) in filters() {
        let request = StreamSessionEventsRequest {
            filter: Some(filter.clone()),
            ..stream(&spirit_id, "a")
        };
        let all = replay_with_cursors(&server, request).await.unwrap();
        for (index, (_, cursor)) in all.iter().enumerate() {
            let request = StreamSessionEventsRequest {
                filter: Some(filter.clone()),
                ..after(&spirit_id, "a", cursor)
            };
            let remaining = replay_with_cursors(&server, request).await.unwrap();
            assert_eq!(remaining, all[index + 1..], "{name}, after event {index}");
        }
    }
}

#[tokio::test]
async fn start_and_limit_of_a_replay_hold_across_the_pages_of_a_long_session() {
    let server = TestServer::start().await;
    let (spirit_id, _) = long_session(&server).await;
    let table = [
        (None, 0, 1..=LONG_SESSION_EVENTS),
        (None, 49, 1..=49),
        (None, 50, 1..=50),
        (None, 51, 1..=51),
        (None, 999, 1..=999),
        (Some(Start::LastN(60)), 0, 941..=LONG_SESSION_EVENTS),
        (Some(Start::LastN(60)), 55, 941..=995),
        (Some(Start::FromTime(at(900))), 0, 900..=LONG_SESSION_EVENTS),
    ];
    for (start, limit, expected) in table {
        let request = StreamSessionEventsRequest {
            start,
            limit,
            ..stream(&spirit_id, "s")
        };
        let replayed = sequences(&replay(&server, request).await.unwrap());
        assert_eq!(replayed, expected.clone().collect::<Vec<_>>(), "{expected:?}");
    }
}

#[tokio::test]
async fn events_created_during_a_replay_appear_when_the_replay_is_resumed() {
    let server = TestServer::start().await;
    let (spirit_id, _) = long_session(&server).await;
    let response = server
        .events()
        .stream_session_events(stream(&spirit_id, "s"))
        .await
        .unwrap();
    let mut replaying = response.into_inner();
    let StreamSessionEventsResponse { cursor, .. } = replaying.message().await.unwrap().unwrap();
    let seconds = [0, 500, 2_000]; // before the replay's position, ahead of it, and after the last event
    let requests = seconds.map(|seconds| event_at(&spirit_id, "s", seconds));
    assert_eq!(
        sequences(&store(&mut server.events(), requests.into()).await),
        [1_001, 1_002, 1_003]
    );
    let rest: Vec<Event> = drain(replaying)
        .await
        .unwrap()
        .into_iter()
        .map(|(event, _)| event)
        .collect();
    assert_eq!(sequences(&rest), (2..=LONG_SESSION_EVENTS).collect::<Vec<_>>());
    let resumed = replay(&server, after(&spirit_id, "s", &cursor)).await.unwrap();
    let expected: Vec<i64> = (2..=500)
        .chain([1_002])
        .chain(501..=LONG_SESSION_EVENTS)
        .chain([1_003])
        .collect();
    assert_eq!(sequences(&resumed), expected);
}

#[tokio::test]
async fn deletes_and_updates_during_a_replay_take_effect_from_its_next_page() {
    let server = TestServer::start().await;
    let (spirit_id, ids) = long_session(&server).await;
    let mut events = server.events();
    let mut replaying = events
        .stream_session_events(stream(&spirit_id, "s"))
        .await
        .unwrap()
        .into_inner();
    replaying.message().await.unwrap().unwrap();
    let [.., deleted, edited] = ids.as_slice() else {
        unreachable!()
    };
    let request = SoftDeleteEventRequest {
        event_id: deleted.clone(),
        ..SoftDeleteEventRequest::default()
    };
    events.soft_delete_event(request).await.unwrap();
    let request = UpdateEventRequest {
        event_id: edited.clone(),
        meta_summary: Some("edited".to_owned()),
        ..UpdateEventRequest::default()
    };
    events.update_event(request).await.unwrap();
    let rest: Vec<Event> = drain(replaying)
        .await
        .unwrap()
        .into_iter()
        .map(|(event, _)| event)
        .collect();
    let expected: Vec<i64> = (2..LONG_SESSION_EVENTS - 1)
        .chain([LONG_SESSION_EVENTS])
        .collect();
    assert_eq!(sequences(&rest), expected);
    assert_eq!(rest.last().unwrap().meta_summary(), "edited");
}

#[tokio::test]
async fn a_shutdown_ends_a_replay_with_a_cursor_that_another_server_resumes() {
    let server = TestServer::start().await;
    let (spirit_id, _) = long_session(&server).await;
    let response = server
        .events()
        .stream_session_events(stream(&spirit_id, "s"))
        .await
        .unwrap();
    let mut replaying = response.into_inner();
    replaying.message().await.unwrap().unwrap();
    server.shut_down();
    let (mut last, mut last_cursor) = (1, String::new());
    let status = loop {
        match replaying.message().await {
            Ok(Some(StreamSessionEventsResponse {
                item: Some(Item::Event(event)),
                cursor,
            })) => {
                assert_eq!(event.sequence, last + 1);
                (last, last_cursor) = (event.sequence, cursor);
            }
            Ok(other) => panic!("expected an event or the shutdown error, got {other:?}"),
            Err(status) => break status,
        }
    };
    let status = refused(Err::<(), _>(status), Code::Unavailable, "SHUTTING_DOWN");
    assert!(last < LONG_SESSION_EVENTS);
    assert_eq!(metadata(&status, "cursor"), last_cursor);
    let database = server.database.clone();
    server.stop().await.unwrap();
    let second = TestServer::start_on(database, |_| {}).await;
    let rest = replay(&second, after(&spirit_id, "s", &last_cursor))
        .await
        .unwrap();
    assert_eq!(
        sequences(&rest),
        (last + 1..=LONG_SESSION_EVENTS).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn replays_of_unknown_spirits_and_sessions_are_empty_and_a_deleted_spirit_keeps_its_sessions() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    create(&mut server.events(), event_at(&spirit_id, "s", 1)).await;
    let request = SoftDeleteSpiritRequest {
        spirit_id: spirit_id.clone(),
        ..SoftDeleteSpiritRequest::default()
    };
    server.spirits().soft_delete_spirit(request).await.unwrap();
    let unknown = "01890a5d-ac96-774b-bcce-b302099a8057";
    let table = [
        (unknown, "s", 0),
        (spirit_id.as_str(), "S", 0),
        (&spirit_id.to_uppercase(), "s", 1),
    ];
    for (spirit_id, session, count) in table {
        for start in [None, Some(Start::LastN(5)), Some(Start::FromTime(at(0)))] {
            let request = StreamSessionEventsRequest {
                start,
                ..stream(spirit_id, session)
            };
            assert_eq!(
                replay(&server, request).await.unwrap().len(),
                count,
                "{spirit_id} {session}"
            );
        }
    }
    let beyond = StreamSessionEventsRequest {
        start: Some(Start::AfterSequence(5)),
        order: EventOrder::Sequence.into(),
        ..stream(unknown, "s")
    };
    assert_eq!(replay(&server, beyond).await.unwrap(), []);
}
