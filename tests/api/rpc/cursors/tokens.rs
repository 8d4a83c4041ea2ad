//! Page tokens and cursors: those of another query or with damage are refused, valid ones survive edits.

use elephantasm_events::grpc::pb::stream_session_events_request::Start;
use elephantasm_events::grpc::pb::{
    EventFilter, EventOrder, EventView, ListEventsRequest, ListSessionsRequest, ListSpiritsRequest,
    StreamSessionEventsRequest, UpdateEventRequest,
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::damage::{damaged, with_version};
use crate::support::builders::{at, drain, list, number, object, refused, stream};
use crate::support::harness::TestServer;
use crate::support::model::{delete, sample_spirit, sequences};

/// Asserts that a call failed with INVALID_CURSOR; returns the only field that it names.
#[track_caller]
fn bad_cursor_field<T>(result: Result<T, Status>) -> String {
    let status = refused(result, Code::InvalidArgument, "INVALID_CURSOR");
    let bad_request = status.get_details_bad_request().expect("BadRequest");
    let [violation] = bad_request.field_violations.as_slice() else {
        panic!("{bad_request:?}")
    };
    violation.field.clone()
}

/// A server with a sample spirit, and a query for each RPC with cursors.
struct Fixture {
    server: TestServer,
    list: ListEventsRequest,
    stream: StreamSessionEventsRequest,
    sessions: ListSessionsRequest,
    spirits: ListSpiritsRequest,
}

impl Fixture {
    async fn new() -> Self {
        let server = TestServer::start().await;
        let (spirit_id, _) = sample_spirit(&server).await;
        let filter = EventFilter {
            event_types: vec![
                "error".to_owned(),
                "message.in".to_owned(),
                "tool.call".to_owned(),
            ],
            ..EventFilter::default()
        };
        Self {
            list: ListEventsRequest {
                session_id: Some("a".to_owned()),
                filter: Some(filter.clone()),
                page_size: 2,
                ..list(&spirit_id)
            },
            stream: StreamSessionEventsRequest {
                filter: Some(filter),
                limit: 2,
                ..stream(&spirit_id, "a")
            },
            sessions: ListSessionsRequest {
                spirit_id,
                page_size: 1,
                ..ListSessionsRequest::default()
            },
            spirits: ListSpiritsRequest {
                page_size: 1,
                ..ListSpiritsRequest::default()
            },
            server,
        }
    }

    /// Lists a page; returns its events' sequences and the next page's token.
    async fn list(&self, request: ListEventsRequest) -> Result<(Vec<i64>, String), Status> {
        let page = self.server.events().list_events(request).await?.into_inner();
        Ok((sequences(&page.events), page.next_page_token))
    }

    /// Lists the page after a token.
    async fn list_after(&self, token: &str) -> Result<(Vec<i64>, String), Status> {
        self.list(ListEventsRequest {
            page_token: token.to_owned(),
            ..self.list.clone()
        })
        .await
    }

    /// Reads a stream; returns its events' sequences and the last cursor.
    async fn stream(&self, request: StreamSessionEventsRequest) -> Result<(Vec<i64>, String), Status> {
        let stream = self
            .server
            .events()
            .stream_session_events(request)
            .await?
            .into_inner();
        let (events, cursors): (Vec<_>, Vec<_>) = drain(stream).await?.into_iter().unzip();
        Ok((sequences(&events), cursors.last().cloned().unwrap_or_default()))
    }

    /// Reads the stream after a cursor.
    async fn stream_after(&self, cursor: &str) -> Result<(Vec<i64>, String), Status> {
        let start = Some(Start::AfterCursor(cursor.to_owned()));
        self.stream(StreamSessionEventsRequest {
            start,
            ..self.stream.clone()
        })
        .await
    }

    /// Lists the sessions after a token; returns the next page's token.
    async fn sessions_after(&self, token: &str) -> Result<String, Status> {
        let request = ListSessionsRequest {
            page_token: token.to_owned(),
            ..self.sessions.clone()
        };
        Ok(self
            .server
            .sessions()
            .list_sessions(request)
            .await?
            .into_inner()
            .next_page_token)
    }

    /// Lists the spirits after a token; returns the next page's token.
    async fn spirits_after(&self, token: &str) -> Result<String, Status> {
        let request = ListSpiritsRequest {
            page_token: token.to_owned(),
            ..self.spirits.clone()
        };
        Ok(self
            .server
            .spirits()
            .list_spirits(request)
            .await?
            .into_inner()
            .next_page_token)
    }
}

/// Queries that each differ from this one in a single respect.
fn other_queries(query: &ListEventsRequest, other_spirit: &str) -> Vec<(&'static str, ListEventsRequest)> {
    let with = |change: &dyn Fn(&mut ListEventsRequest)| {
        let mut request = query.clone();
        change(&mut request);
        request
    };
    let filtered = |change: &dyn Fn(&mut EventFilter)| with(&|r| change(r.filter.as_mut().unwrap()));
    vec![
        (
            "another spirit",
            with(&|r| other_spirit.clone_into(&mut r.spirit_id)),
        ),
        ("another session", with(&|r| r.session_id = Some("b".to_owned()))),
        ("no session", with(&|r| r.session_id = None)),
        (
            "another order",
            with(&|r| r.order = EventOrder::NewestFirst.into()),
        ),
        ("no filter", with(&|r| r.filter = None)),
        ("one type fewer", filtered(&|f| f.event_types.truncate(2))),
        (
            "types joined into one",
            filtered(&|f| f.event_types = vec!["errormessage.intool.call".to_owned()]),
        ),
        (
            "types as roles",
            filtered(&|f| f.roles = std::mem::take(&mut f.event_types)),
        ),
        ("a role", filtered(&|f| f.roles = vec!["user".to_owned()])),
        ("an author", filtered(&|f| f.authors = vec!["Ada".to_owned()])),
        (
            "types as authors",
            filtered(&|f| f.authors = std::mem::take(&mut f.event_types)),
        ),
        ("a score", filtered(&|f| f.min_importance = Some(0.0))),
        ("a time from", filtered(&|f| f.occurred_from = Some(at(0)))),
        ("a time until", filtered(&|f| f.occurred_until = Some(at(9_000)))),
        (
            "meta",
            filtered(&|f| f.meta_contains = Some(object([("n", number(1.0))]))),
        ),
        (
            "a path",
            filtered(&|f| f.meta_matches = Some("$.n == 1".to_owned())),
        ),
        ("with deleted events", filtered(&|f| f.include_deleted = true)),
    ]
}

#[tokio::test]
async fn a_cursor_of_another_query_is_refused() {
    let fixture = Fixture::new().await;
    let other_spirit = fixture.server.spirit().await;
    let (_, token) = fixture.list(fixture.list.clone()).await.unwrap();
    let (_, cursor) = fixture.stream(fixture.stream.clone()).await.unwrap();
    for (name, query) in other_queries(&fixture.list, &other_spirit) {
        let request = ListEventsRequest {
            page_token: token.clone(),
            ..query.clone()
        };
        assert_eq!(
            bad_cursor_field(fixture.list(request).await),
            "page_token",
            "{name}"
        );
        if let Some(session_id) = query.session_id
            && query.order == 0
        {
            let request = StreamSessionEventsRequest {
                spirit_id: query.spirit_id,
                session_id,
                filter: query.filter,
                start: Some(Start::AfterCursor(cursor.clone())),
                ..StreamSessionEventsRequest::default()
            };
            assert_eq!(
                bad_cursor_field(fixture.stream(request).await),
                "after_cursor",
                "{name}"
            );
        }
    }
    let request = ListSessionsRequest {
        spirit_id: other_spirit,
        page_token: fixture.sessions_after("").await.unwrap(),
        page_size: 1,
        ..ListSessionsRequest::default()
    };
    assert_eq!(
        bad_cursor_field(fixture.server.sessions().list_sessions(request).await),
        "page_token"
    );
    let by_name = ListSpiritsRequest {
        name_contains: Some("t".to_owned()),
        page_token: fixture.spirits_after("").await.unwrap(),
        ..ListSpiritsRequest::default()
    };
    assert_eq!(
        bad_cursor_field(fixture.server.spirits().list_spirits(by_name).await),
        "page_token"
    );
}

#[tokio::test]
async fn a_cursor_of_another_rpc_is_refused() {
    let fixture = Fixture::new().await;
    fixture.server.spirit().await;
    let (_, list_token) = fixture.list(fixture.list.clone()).await.unwrap();
    let (_, stream_cursor) = fixture.stream(fixture.stream.clone()).await.unwrap();
    let sessions_token = fixture.sessions_after("").await.unwrap();
    let spirits_token = fixture.spirits_after("").await.unwrap();
    for token in [&stream_cursor, &sessions_token, &spirits_token] {
        assert_eq!(bad_cursor_field(fixture.list_after(token).await), "page_token");
    }
    for token in [&list_token, &sessions_token, &spirits_token] {
        assert_eq!(
            bad_cursor_field(fixture.stream_after(token).await),
            "after_cursor"
        );
    }
    for token in [&list_token, &stream_cursor, &spirits_token] {
        assert_eq!(
            bad_cursor_field(fixture.sessions_after(token).await),
            "page_token"
        );
    }
    for token in [&list_token, &stream_cursor, &sessions_token] {
        assert_eq!(bad_cursor_field(fixture.spirits_after(token).await), "page_token");
    }
}

#[tokio::test]
async fn a_damaged_cursor_is_refused() {
    let fixture = Fixture::new().await;
    let (_, token) = fixture.list(fixture.list.clone()).await.unwrap();
    let (_, cursor) = fixture.stream(fixture.stream.clone()).await.unwrap();
    assert_eq!(with_version(&token, 1), token);
    for (name, token) in damaged(&token) {
        assert_eq!(
            bad_cursor_field(fixture.list_after(&token).await),
            "page_token",
            "{name}"
        );
    }
    for (name, cursor) in damaged(&cursor)
        .into_iter()
        .chain([("empty".to_owned(), String::new())])
    {
        assert_eq!(
            bad_cursor_field(fixture.stream_after(&cursor).await),
            "after_cursor",
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_cursor_is_valid_for_an_equivalent_query() {
    let fixture = Fixture::new().await;
    let (_, token) = fixture.list(fixture.list.clone()).await.unwrap();
    let after = ListEventsRequest {
        page_token: token,
        ..fixture.list.clone()
    };
    let (expected, _) = fixture.list(after.clone()).await.unwrap();
    let mut filter = after.filter.clone().unwrap();
    filter.event_types.reverse();
    filter.event_types.push("error".to_owned());
    filter.meta_contains = Some(object([]));
    let table = [
        (
            "types in another order, one repeated",
            ListEventsRequest {
                filter: Some(filter),
                ..after.clone()
            },
        ),
        (
            "the default order given explicitly",
            ListEventsRequest {
                order: EventOrder::OldestFirst.into(),
                ..after.clone()
            },
        ),
        (
            "the spirit id in upper case",
            ListEventsRequest {
                spirit_id: after.spirit_id.to_uppercase(),
                ..after.clone()
            },
        ),
        (
            "cut content",
            ListEventsRequest {
                content_bytes_max: Some(1),
                ..after.clone()
            },
        ),
        (
            "the other view",
            ListEventsRequest {
                view: EventView::Basic.into(),
                ..after.clone()
            },
        ),
        (
            "a larger page",
            ListEventsRequest {
                page_size: 3,
                ..after
            },
        ),
    ];
    for (name, request) in table {
        let (events, _) = fixture.list(request).await.unwrap();
        assert_eq!(events[..expected.len()], expected, "{name}");
    }
    let (_, cursor) = fixture.stream(fixture.stream.clone()).await.unwrap();
    let request = StreamSessionEventsRequest {
        start: Some(Start::AfterCursor(cursor)),
        view: EventView::Basic.into(),
        limit: 0,
        ..fixture.stream.clone()
    };
    let (events, _) = fixture.stream(request).await.unwrap();
    assert_eq!(events[..expected.len()], expected);
}

#[tokio::test]
async fn a_cursor_stays_valid_when_its_event_is_updated_and_deleted() {
    let fixture = Fixture::new().await;
    let mut client = fixture.server.events();
    let page = client
        .list_events(fixture.list.clone())
        .await
        .unwrap()
        .into_inner();
    let (_, cursor) = fixture.stream(fixture.stream.clone()).await.unwrap();
    let (rest, token) = fixture.list_after(&page.next_page_token).await.unwrap();
    let mut last_event = page.events.last().unwrap().clone();
    let request = UpdateEventRequest {
        event_id: last_event.id.clone(),
        role: Some("edited".to_owned()),
        ..UpdateEventRequest::default()
    };
    client.update_event(request).await.unwrap();
    assert_eq!(
        fixture.list_after(&page.next_page_token).await.unwrap(),
        (rest.clone(), token.clone())
    );
    delete(&mut client, &mut last_event).await;
    assert_eq!(
        fixture.list_after(&page.next_page_token).await.unwrap(),
        (rest.clone(), token)
    );
    assert_eq!(fixture.stream_after(&cursor).await.unwrap().0, rest);
}
