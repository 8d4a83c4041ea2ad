//! `ListSessions`: counts and times of each session's live events, most recently active session first.

use std::collections::BTreeMap;

use elephantasm_events::grpc::pb::session_service_client::SessionServiceClient;
use elephantasm_events::grpc::pb::{
    CreateEventRequest, Event, ListSessionsRequest, Session, SoftDeleteSpiritRequest,
};
use tonic::transport::Channel;

use crate::support::builders::{at, bad_fields, event, event_at};
use crate::support::harness::TestServer;
use crate::support::model::{delete, sample_spirit, store};

fn sessions_of(spirit_id: &str) -> ListSessionsRequest {
    ListSessionsRequest {
        spirit_id: spirit_id.to_owned(),
        ..ListSessionsRequest::default()
    }
}

/// Reads the pages from the request's page to the last.
async fn session_pages(
    client: &mut SessionServiceClient<Channel>,
    mut request: ListSessionsRequest,
) -> Vec<Vec<Session>> {
    let mut pages = Vec::new();
    loop {
        let page = client.list_sessions(request.clone()).await.unwrap().into_inner();
        pages.push(page.sessions);
        if page.next_page_token.is_empty() {
            return pages;
        }
        request.page_token = page.next_page_token;
    }
}

/// The sessions to be listed for these events, whose times are whole seconds.
fn expected_sessions(events: &[Event]) -> Vec<Session> {
    let mut sessions: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    let last_sequence = |session_id: &str| {
        let of_session = events.iter().filter(|event| event.session_id() == session_id);
        of_session.map(|event| event.sequence).max().unwrap()
    };
    for event in events.iter().filter(|event| !event.is_deleted) {
        if let Some(session_id) = &event.session_id {
            sessions
                .entry(session_id)
                .or_default()
                .push(event.occurred_at.unwrap().seconds);
        }
    }
    let mut sessions: Vec<Session> = sessions
        .into_iter()
        .map(|(session_id, times)| Session {
            spirit_id: events[0].spirit_id.clone().unwrap(),
            session_id: session_id.to_owned(),
            event_count: Some(i64::try_from(times.len()).unwrap()),
            first_occurred_at: times.iter().min().copied().map(at),
            last_occurred_at: times.iter().max().copied().map(at),
            last_sequence: last_sequence(session_id),
            ..Session::default()
        })
        .collect();
    // A stable sort: sessions of one minute stay in the byte order of the map.
    sessions.sort_by_key(|session| -session.last_occurred_at.unwrap().seconds.div_euclid(60));
    sessions
}

#[tokio::test]
async fn list_sessions_covers_only_live_events_of_the_spirit() {
    let server = TestServer::start().await;
    let (spirit_id, events) = sample_spirit(&server).await;
    sample_spirit(&server).await;
    let pages = session_pages(&mut server.sessions(), sessions_of(&spirit_id)).await;
    assert_eq!(pages, [expected_sessions(&events)]);
    assert_eq!(pages[0].len(), 3);
}

#[tokio::test]
async fn session_pages_of_any_size_add_up_to_the_list_with_ties_in_byte_order() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let longest = "🐘".repeat(255);
    // In UTF-16 order, U+FFFF and U+1D11E would be swapped.
    let ids = [
        "a", "Z", "z", "é", "e\u{301}", " ", "%", "_", "日本", "\u{ffff}", "𝄞", &longest,
    ];
    let requests = ids.iter().zip(0..).flat_map(|(id, n)| {
        [
            event_at(&spirit_id, id, n),
            event_at(&spirit_id, id, 100 + n / 4),
            event_at(&spirit_id, id, 50),
        ]
    });
    let mut events = store(&mut server.events(), requests.collect()).await;
    delete(&mut server.events(), &mut events[1]).await; // the latest event of the first session
    let expected = expected_sessions(&events);
    for page_size in [1, 2, 3, 4, 5, 11, 12, 13, 200] {
        let request = ListSessionsRequest {
            page_size,
            ..sessions_of(&spirit_id)
        };
        let pages = session_pages(&mut server.sessions(), request).await;
        let size = usize::try_from(page_size).unwrap();
        assert_eq!(pages.len(), ids.len().div_ceil(size), "no page is empty");
        assert_eq!(pages.concat(), expected, "pages of {page_size}");
    }
}

#[tokio::test]
async fn a_session_whose_events_are_all_deleted_is_not_listed() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let requests = ["deleted", "deleted", "live"].map(|id| event_at(&spirit_id, id, 1));
    let mut events = store(&mut server.events(), requests.into()).await;
    for event in &mut events[..2] {
        delete(&mut server.events(), event).await;
    }
    let pages = session_pages(&mut server.sessions(), sessions_of(&spirit_id)).await;
    assert_eq!(pages, [expected_sessions(&events)]);
    assert_eq!(pages[0][0].session_id, "live");
}

#[tokio::test]
async fn paging_returns_unchanged_sessions_exactly_once() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let (mut client, mut sessions) = (server.events(), server.sessions());
    let requests = (0..20).map(|n| event_at(&spirit_id, &format!("s{n:02}"), n / 3));
    store(&mut client, requests.collect()).await;
    let mut request = ListSessionsRequest {
        page_size: 3,
        ..sessions_of(&spirit_id)
    };
    let mut seen = Vec::new();
    let mut new_events = (0..).map(|n| event_at(&spirit_id, ["s00", "new"][n % 2], 100));
    loop {
        let page = sessions
            .list_sessions(request.clone())
            .await
            .unwrap()
            .into_inner();
        seen.extend(page.sessions.into_iter().map(|session| session.session_id));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
        store(&mut client, new_events.by_ref().take(1).collect()).await;
    }
    seen.retain(|id| id != "s00" && id != "new");
    seen.sort();
    assert_eq!(seen, (1..20).map(|n| format!("s{n:02}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_page_has_fifty_sessions_by_default() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let requests = (0..51).map(|n| event_at(&spirit_id, &n.to_string(), n));
    store(&mut server.events(), requests.collect()).await;
    let pages = session_pages(&mut server.sessions(), sessions_of(&spirit_id)).await;
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [50, 1]);
}

#[tokio::test]
async fn list_sessions_is_empty_without_sessions_and_complete_for_a_deleted_spirit() {
    let server = TestServer::start().await;
    let (without, with) = (server.spirit().await, server.spirit().await);
    let requests = [
        event(&without),
        CreateEventRequest {
            occurred_at: Some(at(1)),
            ..event(&without)
        },
    ];
    store(&mut server.events(), requests.into()).await;
    for spirit_id in [without.as_str(), "01890a5d-ac96-774b-bcce-b302099a8057"] {
        assert_eq!(
            session_pages(&mut server.sessions(), sessions_of(spirit_id)).await,
            [[]]
        );
    }
    let events = store(&mut server.events(), vec![event_at(&with, "s", 1)]).await;
    let request = SoftDeleteSpiritRequest {
        spirit_id: with.clone(),
        ..SoftDeleteSpiritRequest::default()
    };
    server.spirits().soft_delete_spirit(request).await.unwrap();
    assert_eq!(
        session_pages(&mut server.sessions(), sessions_of(&with)).await,
        [expected_sessions(&events)]
    );
}

#[tokio::test]
async fn list_sessions_names_every_bad_field() {
    let server = TestServer::start().await;
    for page_size in [-1, 201] {
        let request = ListSessionsRequest {
            page_size,
            ..sessions_of("x")
        };
        let result = server.sessions().list_sessions(request).await;
        assert_eq!(bad_fields(result), ["spirit_id", "page_size"]);
    }
}
