//! Contents, metas and summaries of every length in lists and streams. Long ones are read by a second statement.

use elephantasm_events::domain::event::{Event as StoredEvent, Order, View};
use elephantasm_events::domain::filter::{EventFilter, Selection};
use elephantasm_events::domain::ids::SpiritId;
use elephantasm_events::grpc::pb::{
    CreateEventRequest, Event, EventOrder, EventView, ListEventsRequest, StreamSessionEventsRequest,
    WatchEventsRequest,
};
use elephantasm_events::store::{Consistency, EventQuery, PageStart, Store};
use prost::Message as _;

use crate::support::builders::{drain, event, list, object, stream, text};
use crate::support::harness::{Database, Settings, TestServer, eventually};
use crate::support::live::{beginning, watch};
use crate::support::model::{pages, store};

const PAGE_BYTES: usize = 2 * 1024 * 1024;
/// Lengths around the one up to which a page's statement returns a value, and far from it.
const LENGTHS: [usize; 6] = [1, 300, 4_096, 4_097, 9_000, 60_000];

/// Events of a session `s` with contents, metas and summaries of all combinations of lengths, and large ones in
/// between.
async fn mixed_events(server: &TestServer) -> (String, Vec<Event>) {
    let spirit_id = server.spirit().await;
    let mut requests = Vec::new();
    for content in LENGTHS {
        for meta in LENGTHS {
            for summary in [0, 10, 4_096, 4_097, 16 * 1024] {
                requests.push(CreateEventRequest {
                    session_id: Some("s".to_owned()),
                    content: Some("c".repeat(content)),
                    meta: Some(object([("k", text(&"é".repeat(meta / 2)))])),
                    meta_summary: (summary > 0).then(|| "s".repeat(summary)),
                    ..event(&spirit_id)
                });
            }
        }
        requests.push(CreateEventRequest {
            session_id: Some("s".to_owned()),
            content: Some("large".repeat(200 * 1024)),
            ..event(&spirit_id)
        });
    }
    let mut events = Vec::new();
    for request in requests {
        events.extend(store(&mut server.events(), vec![request]).await);
    }
    (spirit_id, events)
}

/// The events as the BASIC view shows them.
fn basic(events: &[Event]) -> Vec<Event> {
    let basic = |event: &Event| Event {
        content: None,
        meta: None,
        ..event.clone()
    };
    events.iter().map(basic).collect()
}

#[tokio::test]
async fn lists_return_values_of_every_length_within_the_byte_budget_of_a_page() {
    let server = TestServer::start().await;
    let (spirit_id, events) = mixed_events(&server).await;
    for session_id in [None, Some("s".to_owned())] {
        for (view, expected) in [
            (EventView::Full, events.clone()),
            (EventView::Basic, basic(&events)),
        ] {
            let request = ListEventsRequest {
                session_id: session_id.clone(),
                view: view.into(),
                order: EventOrder::OldestFirst.into(),
                page_size: 200,
                ..list(&spirit_id)
            };
            let pages = pages(&mut server.events(), request).await;
            let bytes = |page: &Vec<Event>| page.iter().map(Event::encoded_len).sum::<usize>();
            assert!(pages.iter().all(|page| bytes(page) <= PAGE_BYTES), "{view:?}");
            assert!(pages.concat() == expected, "{view:?}, session {session_id:?}");
        }
    }
}

#[tokio::test]
async fn streams_send_values_of_every_length() {
    let server = TestServer::start().await;
    let (spirit_id, events) = mixed_events(&server).await;
    for (view, expected) in [
        (EventView::Full, events.clone()),
        (EventView::Basic, basic(&events)),
    ] {
        let request = StreamSessionEventsRequest {
            view: view.into(),
            ..stream(&spirit_id, "s")
        };
        let replay = server.events().stream_session_events(request).await.unwrap();
        let replayed: Vec<Event> = drain(replay.into_inner())
            .await
            .unwrap()
            .into_iter()
            .map(|(event, _)| event)
            .collect();
        assert!(replayed == expected, "replay, {view:?}");

        let request = WatchEventsRequest {
            view: view.into(),
            ..beginning(&spirit_id)
        };
        let mut watcher = watch(&server, request).await.unwrap();
        for event in &expected {
            assert!(watcher.event().await.0 == *event, "watch, {view:?}");
        }
    }
}

/// Blocks of long values that were read in the database since its creation.
pub async fn toast_blocks_read(database: &Database) -> i64 {
    let mut connection = database.connect().await;
    sqlx::query_scalar(
        "select toast_blks_hit + toast_blks_read from pg_statio_user_tables where relname = 'events'",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap()
}

#[tokio::test]
async fn a_value_that_does_not_fit_into_the_page_is_not_read() {
    const VALUES: i64 = 40;
    const VALUE_BYTES: usize = 320_000;
    // A value takes 161 chunks of at most 1,996 bytes, each of them read through an index.
    const BLOCKS_OF_A_VALUE_MAX: i64 = 161 * 4;
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut connection = server.database.connect().await;
    // Hexadecimal digits of hashes do not fit into a row when compressed.
    sqlx::query(
        "insert into events (id, spirit_id, sequence, event_type, content, occurred_at)
         select gen_random_uuid(), $1::text::uuid, n, 'message.in',
             (select string_agg(md5(n::text || ' ' || part::text), '') from generate_series(1, 10000) as part),
             to_timestamp(n)
         from generate_series(1, $2) as n",
    )
    .bind(&spirit_id)
    .bind(VALUES)
    .execute(&mut connection)
    .await
    .unwrap();
    let before = toast_blocks_read(&server.database).await;

    let query = EventQuery {
        selection: Selection {
            spirit_id: SpiritId(spirit_id.parse().unwrap()),
            session_id: None,
            filter: EventFilter::default(),
        },
        order: Order::NewestFirst,
        view: View::Full,
        start: PageStart::Offset(0),
        after_sequence: 0,
        sequence_max: i64::MAX,
        size: 200,
        bytes: 2 * VALUE_BYTES + 4_096,
    };
    let store = Store::open(server.database.connect.clone(), Settings::default().store);
    let page = store.read(Consistency::Strong).list_events(&query).await.unwrap();
    let bytes: Vec<usize> = page.events.iter().map(StoredEvent::text_bytes).collect();
    assert!(page.more);
    assert_eq!(bytes, [VALUE_BYTES + 2; 2]);
    store.close().await; // PostgreSQL counts the blocks of a session at its end

    let read = eventually("the blocks of the session are counted", async || {
        let read = toast_blocks_read(&server.database).await - before;
        (read > 0).then_some(read)
    })
    .await;
    assert!(read <= 2 * BLOCKS_OF_A_VALUE_MAX, "{read} blocks were read");
}
