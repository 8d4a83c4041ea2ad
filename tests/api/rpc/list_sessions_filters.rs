//! `ListSessions` with filters, without counts, and over many sessions.

use elephantasm_events::grpc::pb::{
    ListSessionsRequest, ListSessionsResponse, Session, SessionFilter, UpdateSessionRequest,
};

use crate::support::builders::{at, bad_fields, event_at, object, text};
use crate::support::harness::TestServer;
use crate::support::model::{delete, store};

async fn list(server: &TestServer, request: ListSessionsRequest) -> ListSessionsResponse {
    server
        .sessions()
        .list_sessions(request)
        .await
        .unwrap()
        .into_inner()
}

/// Reads all pages of a filtered list and returns the ids of their sessions.
async fn listed(server: &TestServer, spirit_id: &str, page_size: i32, filter: &SessionFilter) -> Vec<String> {
    let mut request = ListSessionsRequest {
        spirit_id: spirit_id.to_owned(),
        page_size,
        filter: Some(filter.clone()),
        ..ListSessionsRequest::default()
    };
    let mut ids = Vec::new();
    loop {
        let page = list(server, request.clone()).await;
        ids.extend(page.sessions.into_iter().map(|session| session.session_id));
        if page.next_page_token.is_empty() {
            return ids;
        }
        request.page_token = page.next_page_token;
    }
}

/// A spirit with sessions `chat-0` to `chat-7` that were last active 40 seconds apart, the last one first; `chat-8`,
/// whose only event is deleted; and `mail-9`, which has no event.
async fn spirit_with_sessions(server: &TestServer) -> String {
    let spirit_id = server.spirit().await;
    let requests = (0..9).map(|n| event_at(&spirit_id, &format!("chat-{n}"), n * 40));
    let mut events = store(&mut server.events(), requests.collect()).await;
    delete(&mut server.events(), &mut events[8]).await;
    let properties = |session_id: &str, title: &str, owner: &str, kind: &str| UpdateSessionRequest {
        spirit_id: spirit_id.clone(),
        session_id: session_id.to_owned(),
        title: Some(title.to_owned()),
        owner: Some(owner.to_owned()),
        meta: Some(object([("kind", text(kind))])),
        ..UpdateSessionRequest::default()
    };
    for request in [
        properties("chat-1", "Straße nach Köln", "ann", "chat"),
        properties("chat-4", "100% done_x", "ann", "mail"),
        properties("chat-6", "Other", "bob", "chat"),
        properties("chat-8", "Gone", "ann", "chat"),
        properties("mail-9", "Not yet begun", "ann", "mail"),
    ] {
        server.sessions().update_session(request).await.unwrap();
    }
    spirit_id
}

#[tokio::test]
async fn list_sessions_filters_by_every_field_at_any_page_size() {
    let server = TestServer::start().await;
    let spirit_id = spirit_with_sessions(&server).await;
    let word = |word: &str| Some(word.to_owned());
    let with = |change: &dyn Fn(&mut SessionFilter)| {
        let mut filter = SessionFilter::default();
        change(&mut filter);
        filter
    };
    let kind = |kind: &str| Some(object([("kind", text(kind))]));
    for (name, filter, expected) in [
        ("an owner", with(&|f| f.owner = word("ann")), "4 1"),
        ("part of an owner", with(&|f| f.owner = word("an")), ""),
        (
            "an owner, empty too",
            with(&|f| (f.owner, f.include_empty) = (word("ann"), true)),
            "4 1 8 9",
        ),
        (
            "empty too",
            with(&|f| f.include_empty = true),
            "6 7 5 3 4 2 0 1 8 9",
        ),
        ("a prefix", with(&|f| f.session_id_prefix = word("chat-5")), "5"),
        (
            "a prefix of all",
            with(&|f| f.session_id_prefix = word("chat-")),
            "6 7 5 3 4 2 0 1",
        ),
        (
            "a prefix, empty too",
            with(&|f| (f.session_id_prefix, f.include_empty) = (word("mail"), true)),
            "9",
        ),
        (
            "a title, folded",
            with(&|f| f.title_contains = word("STRASSE")),
            "1",
        ),
        ("a title with %", with(&|f| f.title_contains = word("0%")), "4"),
        ("a title with _", with(&|f| f.title_contains = word("E_X")), "4"),
        ("meta", with(&|f| f.meta_contains = kind("chat")), "6 1"),
        (
            "meta of an owner",
            with(&|f| (f.meta_contains, f.owner) = (kind("mail"), word("ann"))),
            "4",
        ),
        ("from a time", with(&|f| f.active_from = Some(at(200))), "6 7 5"),
        (
            "from the next second",
            with(&|f| f.active_from = Some(at(201))),
            "6 7",
        ),
        ("until a time", with(&|f| f.active_until = Some(at(80))), "0 1"),
        (
            "until the next second",
            with(&|f| f.active_until = Some(at(81))),
            "2 0 1",
        ),
        (
            "a span",
            with(&|f| (f.active_from, f.active_until) = (Some(at(40)), Some(at(160)))),
            "3 2 1",
        ),
        (
            "a span, empty too",
            with(&|f| (f.active_until, f.include_empty) = (Some(at(40)), true)),
            "0",
        ),
    ] {
        let expected: Vec<String> = expected
            .split_whitespace()
            .map(|n| format!("{}-{n}", if n == "9" { "mail" } else { "chat" }))
            .collect();
        for page_size in [1, 2, 3, 0] {
            let ids = listed(&server, &spirit_id, page_size, &filter).await;
            assert_eq!(ids, expected, "{name}, pages of {page_size}");
        }
    }
}

#[tokio::test]
async fn list_sessions_without_counts_leaves_them_and_the_first_time_absent() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let requests = [1, 2, 90].map(|seconds| event_at(&spirit_id, "s", seconds));
    store(&mut server.events(), requests.into()).await;
    let request = ListSessionsRequest {
        spirit_id: spirit_id.clone(),
        with_counts: Some(false),
        ..ListSessionsRequest::default()
    };
    let expected = Session {
        spirit_id,
        session_id: "s".to_owned(),
        last_occurred_at: Some(at(90)),
        last_sequence: 3,
        ..Session::default()
    };
    assert_eq!(list(&server, request).await.sessions, [expected]);
}

#[tokio::test]
async fn a_filtered_page_scans_ten_thousand_sessions_and_the_next_one_continues() {
    const MINUTES: i64 = 2;
    const SESSIONS: i64 = 25_000;
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    sqlx::query(
        "insert into sessions (spirit_id, session_id, active_minute, title, title_folded, owner)
         select $1::uuid, to_char(n, 'FM00000'),
             case when n < 20000 then timestamptz '2026-01-01Z' + n % $2 * interval '1 minute' end,
             'T' || n, 't' || n, case when n % 1000 = 0 then 'ann' end
         from generate_series(0, $3 - 1) as n",
    )
    .bind(&spirit_id)
    .bind(MINUTES)
    .bind(SESSIONS)
    .execute(&mut server.database.connect().await)
    .await
    .unwrap();
    let mut request = ListSessionsRequest {
        spirit_id: spirit_id.clone(),
        filter: Some(SessionFilter {
            title_contains: Some("t2499".to_owned()),
            include_empty: true,
            ..SessionFilter::default()
        }),
        ..ListSessionsRequest::default()
    };
    let mut pages = Vec::new();
    loop {
        let page = list(&server, request.clone()).await;
        let ids = page.sessions.iter().map(|session| session.session_id.clone());
        pages.push(ids.collect::<Vec<_>>().join(" "));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let last = "24990 24991 24992 24993 24994 24995 24996 24997 24998 24999";
    assert_eq!(pages, ["02499", "", last]);

    let owner = SessionFilter {
        owner: Some("ann".to_owned()),
        ..SessionFilter::default()
    };
    let ids = listed(&server, &spirit_id, 7, &owner).await;
    assert_eq!(ids.len(), 20, "an owner's sessions are found by an index");
}

#[tokio::test]
async fn a_page_of_sessions_ends_early_at_two_mebibytes() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    sqlx::query(
        "insert into sessions (spirit_id, session_id, active_minute, meta)
         select $1::uuid, to_char(n, 'FM000'), timestamptz '2026-01-01Z',
             jsonb_build_object('k', repeat('x', 60000))
         from generate_series(0, 99) as n",
    )
    .bind(&spirit_id)
    .execute(&mut server.database.connect().await)
    .await
    .unwrap();
    let mut request = ListSessionsRequest {
        spirit_id,
        page_size: 200,
        ..ListSessionsRequest::default()
    };
    let (mut ids, mut pages) = (Vec::new(), 0);
    loop {
        let page = list(&server, request.clone()).await;
        assert!(page.sessions.len() <= 35, "{} sessions", page.sessions.len());
        ids.extend(page.sessions.into_iter().map(|session| session.session_id));
        pages += 1;
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(ids, (0..100).map(|n| format!("{n:03}")).collect::<Vec<_>>());
    assert_eq!(pages, 3);
}

#[tokio::test]
async fn list_sessions_names_every_bad_field_of_a_filter() {
    let server = TestServer::start().await;
    let request = ListSessionsRequest {
        spirit_id: "x".to_owned(),
        filter: Some(SessionFilter {
            owner: Some(String::new()),
            session_id_prefix: Some("x".repeat(256)),
            title_contains: Some("a\0b".to_owned()),
            meta_contains: Some(object([("\0", text("x"))])),
            active_from: Some(at(2)),
            active_until: Some(at(1)),
            include_empty: false,
        }),
        ..ListSessionsRequest::default()
    };
    let fields = bad_fields(server.sessions().list_sessions(request).await);
    let expected = [
        "spirit_id",
        "filter.active_from",
        "filter.owner",
        "filter.session_id_prefix",
        "filter.title_contains",
        "filter.meta_contains",
    ];
    assert_eq!(fields, expected);
}
