//! `ListEvents`: orders, filters and pages.

use elephantasm_events::grpc::pb::{
    Event, EventFilter, EventOrder, EventView, ListEventsRequest, SoftDeleteSpiritRequest,
};

use crate::support::builders::{at, bad_fields, event, event_at, list, number, object, text};
use crate::support::harness::{TestServer, small_limits};
use crate::support::model::{filters, pages, sample_spirit, select, sequences, store};

const ORDERS: [EventOrder; 5] = [
    EventOrder::Unspecified,
    EventOrder::NewestFirst,
    EventOrder::OldestFirst,
    EventOrder::Sequence,
    EventOrder::SequenceDesc,
];

async fn listed(server: &TestServer, request: ListEventsRequest) -> Vec<Event> {
    server
        .events()
        .list_events(request)
        .await
        .unwrap()
        .into_inner()
        .events
}

#[tokio::test]
async fn list_events_applies_every_filter_and_order_with_and_without_a_session() {
    let server = TestServer::start().await;
    let (spirit_id, events) = sample_spirit(&server).await;
    for (name, filter) in filters() {
        for session in [None, Some("a"), Some("ü"), Some("none such")] {
            for order in ORDERS {
                let request = ListEventsRequest {
                    session_id: session.map(str::to_owned),
                    filter: Some(filter.clone()),
                    order: order.into(),
                    page_size: 200,
                    ..list(&spirit_id)
                };
                let effective_order = match (order, session) {
                    (EventOrder::Unspecified, None) => EventOrder::NewestFirst,
                    (EventOrder::Unspecified, Some(_)) => EventOrder::OldestFirst,
                    (given, _) => given,
                };
                let expected = select(&events, session, &filter, effective_order);
                let received = listed(&server, request).await;
                assert_eq!(
                    received.iter().collect::<Vec<_>>(),
                    expected,
                    "{name}, session {session:?}, {order:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn event_pages_of_any_size_add_up_to_the_whole_list() {
    let server = TestServer::start().await;
    let (spirit_id, events) = sample_spirit(&server).await;
    let filter = EventFilter::default();
    for session in [None, Some("a")] {
        for order in &ORDERS[1..] {
            let order = *order;
            let expected = sequences(select(&events, session, &filter, order));
            for page_size in [1, 2, 7, 200] {
                let request = ListEventsRequest {
                    session_id: session.map(str::to_owned),
                    order: order.into(),
                    page_size,
                    ..list(&spirit_id)
                };
                let pages = pages(&mut server.events(), request).await;
                let size = usize::try_from(page_size).unwrap();
                assert_eq!(pages.len(), expected.len().div_ceil(size), "no page is empty");
                assert!(pages[..pages.len() - 1].iter().all(|page| page.len() == size));
                assert_eq!(sequences(pages.iter().flatten()), expected);
            }
        }
    }
}

#[tokio::test]
async fn after_sequence_starts_a_list_in_sequence_order_behind_that_event() {
    let server = TestServer::start().await;
    let (spirit_id, events) = sample_spirit(&server).await;
    for (name, filter) in filters() {
        for session in [None, Some("a")] {
            for after_sequence in [0, 1, 30, 59, 60, i64::MAX] {
                let request = ListEventsRequest {
                    session_id: session.map(str::to_owned),
                    filter: Some(filter.clone()),
                    order: EventOrder::Sequence.into(),
                    after_sequence: Some(after_sequence),
                    page_size: 7,
                    ..list(&spirit_id)
                };
                let expected = select(&events, session, &filter, EventOrder::Sequence)
                    .into_iter()
                    .filter(|event| event.sequence > after_sequence);
                let pages = pages(&mut server.events(), request).await;
                assert_eq!(
                    sequences(pages.iter().flatten()),
                    sequences(expected),
                    "{name}, session {session:?}, after {after_sequence}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_full_last_page_has_no_next_page_token() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    store(&mut server.events(), vec![event(&spirit_id); 4]).await;
    for (page_size, sizes) in [(4, &[4][..]), (2, &[2, 2]), (3, &[3, 1])] {
        let request = ListEventsRequest {
            page_size,
            ..list(&spirit_id)
        };
        let pages = pages(&mut server.events(), request).await;
        assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), sizes);
    }
}

#[tokio::test]
async fn a_page_has_fifty_events_by_default_and_two_hundred_at_most() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    store(&mut server.events(), vec![event(&spirit_id); 201]).await;
    for (page_size, count) in [(0, 50), (1, 1), (199, 199), (200, 200)] {
        let request = ListEventsRequest {
            page_size,
            ..list(&spirit_id)
        };
        assert_eq!(listed(&server, request).await.len(), count);
    }
    for page_size in [-1, 201, i32::MIN, i32::MAX] {
        let request = ListEventsRequest {
            page_size,
            ..list(&spirit_id)
        };
        assert_eq!(
            bad_fields(server.events().list_events(request).await),
            ["page_size"]
        );
    }
}

#[tokio::test]
async fn an_offset_counts_only_events_that_match_the_filter() {
    let server = TestServer::start().await;
    let (spirit_id, events) = sample_spirit(&server).await;
    let filter = EventFilter {
        roles: vec!["user".to_owned()],
        ..EventFilter::default()
    };
    for session in [None, Some("a")] {
        let expected = sequences(select(&events, session, &filter, EventOrder::NewestFirst));
        for offset in [0, 1, 3, 100] {
            let request = ListEventsRequest {
                session_id: session.map(str::to_owned),
                filter: Some(filter.clone()),
                order: EventOrder::NewestFirst.into(),
                offset,
                page_size: 2,
                ..list(&spirit_id)
            };
            let received = pages(&mut server.events(), request).await.concat();
            let skipped = usize::try_from(offset).unwrap().min(expected.len());
            assert_eq!(sequences(&received), expected[skipped..], "offset {offset}");
        }
    }
}

#[tokio::test]
async fn the_basic_view_omits_only_content_and_meta() {
    let server = TestServer::start().await;
    let (spirit_id, events) = sample_spirit(&server).await;
    for session in [None, Some("a")] {
        let request = ListEventsRequest {
            session_id: session.map(str::to_owned),
            view: EventView::Basic.into(),
            order: EventOrder::OldestFirst.into(),
            ..list(&spirit_id)
        };
        let expected: Vec<Event> = select(&events, session, &EventFilter::default(), EventOrder::OldestFirst)
            .into_iter()
            .map(|event| Event {
                content: None,
                meta: None,
                ..event.clone()
            })
            .take(50)
            .collect();
        assert_eq!(listed(&server, request).await, expected);
    }
}

#[tokio::test]
async fn events_are_ordered_by_occurred_at_then_sequence_even_if_back_dated() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let requests = [5, 5, 9, 5, 1].map(|seconds| event_at(&spirit_id, "s", seconds));
    store(&mut server.events(), requests.into()).await;
    let request = ListEventsRequest {
        session_id: Some("s".to_owned()),
        ..list(&spirit_id)
    };
    assert_eq!(sequences(&listed(&server, request).await), [5, 1, 2, 4, 3]);
    assert_eq!(
        sequences(&listed(&server, list(&spirit_id)).await),
        [3, 4, 2, 1, 5]
    );
}

#[tokio::test]
async fn list_events_is_empty_for_an_unknown_spirit_and_complete_for_a_deleted_one() {
    let server = TestServer::start().await;
    let unknown = "01890a5d-ac96-774b-bcce-b302099a8057";
    assert_eq!(pages(&mut server.events(), list(unknown)).await, [[]]);
    let (spirit_id, events) = sample_spirit(&server).await;
    let request = SoftDeleteSpiritRequest {
        spirit_id: spirit_id.clone(),
        ..SoftDeleteSpiritRequest::default()
    };
    server.spirits().soft_delete_spirit(request).await.unwrap();
    let expected = select(&events, None, &EventFilter::default(), EventOrder::NewestFirst);
    let received = pages(&mut server.events(), list(&spirit_id)).await.concat();
    assert_eq!(received.iter().collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn list_events_names_every_bad_field() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let filter = EventFilter {
        event_types: vec!["x".to_owned(), String::new()],
        roles: vec!["r".repeat(51)],
        authors: vec!["a".repeat(256)],
        min_importance: Some(f64::NAN),
        occurred_from: Some(at(2)),
        occurred_until: Some(at(1)),
        meta_contains: Some(object([("n", number(f64::INFINITY))])),
        meta_matches: Some("$.n".to_owned()),
        include_deleted: false,
    };
    let request = ListEventsRequest {
        spirit_id: "x".to_owned(),
        session_id: Some(String::new()),
        filter: Some(filter),
        page_size: -1,
        page_token: "x".to_owned(),
        offset: -1,
        order: 7,
        view: 7,
        after_sequence: Some(1),
        content_bytes_max: Some(0),
    };
    let mut fields = bad_fields(server.events().list_events(request).await);
    fields.sort();
    let expected = [
        "after_sequence",
        "content_bytes_max",
        "filter.authors[0]",
        "filter.event_types[1]",
        "filter.meta_contains",
        "filter.meta_matches",
        "filter.min_importance",
        "filter.occurred_from",
        "filter.roles[0]",
        "offset",
        "order",
        "page_size",
        "session_id",
        "spirit_id",
        "view",
    ];
    assert_eq!(fields, expected);
    let offset_and_token = ListEventsRequest {
        offset: 1,
        page_token: "x".to_owned(),
        ..list(&spirit_id)
    };
    assert_eq!(
        bad_fields(server.events().list_events(offset_and_token).await),
        ["offset"]
    );
    let too_many_types = EventFilter {
        event_types: (0..101).map(|n| n.to_string()).collect(),
        ..EventFilter::default()
    };
    let request = ListEventsRequest {
        filter: Some(too_many_types),
        ..list(&spirit_id)
    };
    assert_eq!(
        bad_fields(server.events().list_events(request).await),
        ["filter.event_types"]
    );
}

#[tokio::test]
async fn meta_contains_has_the_same_byte_limit_as_meta() {
    let server = TestServer::start_with(small_limits).await;
    let spirit_id = server.spirit().await;
    let with = |chars: usize| {
        let meta = object([("k", text(&"x".repeat(chars)))]);
        let filter = EventFilter {
            meta_contains: Some(meta),
            ..EventFilter::default()
        };
        ListEventsRequest {
            filter: Some(filter),
            ..list(&spirit_id)
        }
    };
    let envelope_bytes = r#"{"k":""}"#.len();
    assert_eq!(listed(&server, with(200 - envelope_bytes)).await, []);
    let too_long = server.events().list_events(with(201 - envelope_bytes)).await;
    assert_eq!(bad_fields(too_long), ["filter.meta_contains"]);
}
