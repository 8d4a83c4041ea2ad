//! The byte budget of a page of `ListEvents`.

use elephantasm_events::domain::event::{Order, View};
use elephantasm_events::domain::filter::Selection;
use elephantasm_events::domain::ids::SpiritId;
use elephantasm_events::grpc::pb::{CreateEventRequest, Event, EventView, ListEventsRequest};
use elephantasm_events::store::{Consistency, EventQuery, PageStart, Store};

use crate::support::builders::{event, list, number, object, text};
use crate::support::harness::{Settings, TestServer};
use crate::support::model::{pages, sequences, store};

#[tokio::test]
async fn a_page_ends_at_two_mebibytes_of_content() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let large = CreateEventRequest {
        content: Some("x".repeat(700 * 1024)),
        ..event(&spirit_id)
    };
    for _ in 0..5 {
        store(&mut server.events(), vec![large.clone()]).await;
    }
    let sizes = |pages: &[Vec<Event>]| pages.iter().map(Vec::len).collect::<Vec<_>>();
    let full = pages(&mut server.events(), list(&spirit_id)).await;
    assert_eq!(sizes(&full), [2, 2, 1]);
    assert_eq!(sequences(full.iter().flatten()), [5, 4, 3, 2, 1]);
    let basic = ListEventsRequest {
        view: EventView::Basic.into(),
        ..list(&spirit_id)
    };
    assert_eq!(sizes(&pages(&mut server.events(), basic).await), [5]);
}

#[tokio::test]
async fn an_event_larger_than_the_page_budget_gets_a_page_of_its_own() {
    let server = TestServer::start_with(|settings| {
        settings.server.limits.content_bytes_max = 3 * 1024 * 1024;
    })
    .await;
    let spirit_id = server.spirit().await;
    let huge = CreateEventRequest {
        content: Some("x".repeat(5 * 512 * 1024)),
        ..event(&spirit_id)
    };
    for _ in 0..2 {
        server.events().create_event(huge.clone()).await.unwrap();
    }
    let pages = pages(&mut server.events(), list(&spirit_id)).await;
    assert_eq!(pages.iter().map(sequences).collect::<Vec<_>>(), [[2], [1]]);
}

#[tokio::test]
async fn summaries_and_meta_count_towards_the_byte_budget_of_a_page() {
    const PAGE_BYTES_MAX: usize = 2 * 1024 * 1024;
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let with_summary = CreateEventRequest {
        meta_summary: Some("s".repeat(16 * 1024)),
        ..event(&spirit_id)
    };
    let with_large_meta = CreateEventRequest {
        meta: Some(object([("k".repeat(16 * 1024).as_str(), number(1.0))])),
        ..event(&spirit_id)
    };
    for request in [with_summary, with_large_meta] {
        store(&mut server.events(), vec![request; 150]).await;
    }
    let request = ListEventsRequest {
        page_size: 200,
        ..list(&spirit_id)
    };
    let pages = pages(&mut server.events(), request).await;
    let bytes = |page: &Vec<Event>| page.iter().map(prost::Message::encoded_len).sum::<usize>();
    assert!(pages.iter().all(|page| bytes(page) <= PAGE_BYTES_MAX));
    assert_eq!(pages.concat().len(), 300);
    assert!(pages.len() <= 4, "pages use their byte budget");
}

#[tokio::test]
async fn a_page_is_read_up_to_its_byte_budget_however_well_its_meta_is_compressed() {
    const PAGE_BYTES: usize = 2 * 1024 * 1024;
    const META_BYTES: usize = 60_000;
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let request = CreateEventRequest {
        meta: Some(object([("k", text(&" ".repeat(META_BYTES)))])),
        ..event(&spirit_id)
    };
    for _ in 0..3 {
        store(&mut server.events(), vec![request.clone(); 40]).await;
    }
    let query = EventQuery {
        selection: Selection {
            spirit_id: SpiritId(spirit_id.parse().unwrap()),
            session_id: None,
            filter: elephantasm_events::domain::filter::EventFilter::default(),
        },
        order: Order::NewestFirst,
        view: View::Full,
        start: PageStart::Offset(0),
        after_sequence: 0,
        sequence_max: i64::MAX,
        size: 200,
        bytes: PAGE_BYTES,
    };
    let store = Store::open(server.database.connect.clone(), Settings::default().store);
    let page = store.read(Consistency::Strong).list_events(&query).await.unwrap();
    let bytes: usize = page
        .events
        .iter()
        .map(elephantasm_events::domain::event::Event::text_bytes)
        .sum();
    assert!(page.more && bytes <= PAGE_BYTES, "{bytes} bytes were read");
    assert!(
        bytes > PAGE_BYTES - 2 * META_BYTES,
        "{bytes} bytes leave the budget unused"
    );
}
