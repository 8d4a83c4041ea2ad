//! Tokens: what else than a token of the very query is refused, and what a token survives.

use elephantasm_events::grpc::pb::stream_session_events_request::Start;
use elephantasm_events::grpc::pb::{
    EventFilter, EventOrder, EventView, ListEventsRequest, ListSessionsRequest, ListSpiritsRequest,
    StreamSessionEventsRequest, UpdateEventRequest,
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::damage::{damaged, of_version};
use crate::support::builders::{at, drain, list, number, object, refused, stream};
use crate::support::harness::TestServer;
use crate::support::model::{delete, garden, sequences};

/// The one field that an INVALID_CURSOR names.
#[track_caller]
fn refused_at<T>(result: Result<T, Status>) -> String {
    let status = refused(result, Code::InvalidArgument, "INVALID_CURSOR");
    let bad_request = status.get_details_bad_request().expect("BadRequest");
    let [violation] = bad_request.field_violations.as_slice() else {
        panic!("{bad_request:?}")
    };
    violation.field.clone()
}

/// A server with a garden, and a query of each RPC whose cursors follow.
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
        let (spirit_id, _) = garden(&server).await;
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
                page_token: String::new(),
            },
            spirits: ListSpiritsRequest {
                page_size: 1,
                ..ListSpiritsRequest::default()
            },
            server,
        }
    }

    /// Where a page of the list ends: its events' sequences and the token.
    async fn list(&self, request: ListEventsRequest) -> Result<(Vec<i64>, String), Status> {
        let page = self.server.events().list_events(request).await?.into_inner();
        Ok((sequences(&page.events), page.next_page_token))
    }

    async fn list_after(&self, token: &str) -> Result<(Vec<i64>, String), Status> {
        self.list(ListEventsRequest {
            page_token: token.to_owned(),
            ..self.list.clone()
        })
        .await
    }

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

    async fn stream_after(&self, cursor: &str) -> Result<(Vec<i64>, String), Status> {
        let start = Some(Start::AfterCursor(cursor.to_owned()));
        self.stream(StreamSessionEventsRequest {
            start,
            ..self.stream.clone()
        })
        .await
    }

    async fn sessions_after(&self, token: &str) -> Result<String, Status> {
        let request = ListSessionsRequest {
            page_token: token.to_owned(),
            ..self.sessions.clone()
        };
        Ok(self
            .server
            .events()
            .list_sessions(request)
            .await?
            .into_inner()
            .next_page_token)
    }

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

/// The queries that differ from this one in one thing.
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
        ("a type less", filtered(&|f| f.event_types.truncate(2))),
        (
            "types as one",
            filtered(&|f| f.event_types = vec!["errormessage.intool.call".to_owned()]),
        ),
        (
            "types as roles",
            filtered(&|f| f.roles = std::mem::take(&mut f.event_types)),
        ),
        ("a role", filtered(&|f| f.roles = vec!["user".to_owned()])),
        ("a score", filtered(&|f| f.min_importance = Some(0.0))),
        ("a time from", filtered(&|f| f.occurred_from = Some(at(0)))),
        ("a time until", filtered(&|f| f.occurred_until = Some(at(9_000)))),
        (
            "meta",
            filtered(&|f| f.meta_contains = Some(object([("n", number(1.0))]))),
        ),
        ("deleted ones too", filtered(&|f| f.include_deleted = true)),
    ]
}

#[tokio::test]
async fn a_token_of_another_query_is_refused() {
    let fixture = Fixture::new().await;
    let other_spirit = fixture.server.spirit().await;
    let (_, token) = fixture.list(fixture.list.clone()).await.unwrap();
    let (_, cursor) = fixture.stream(fixture.stream.clone()).await.unwrap();
    for (name, query) in other_queries(&fixture.list, &other_spirit) {
        let request = ListEventsRequest {
            page_token: token.clone(),
            ..query.clone()
        };
        assert_eq!(refused_at(fixture.list(request).await), "page_token", "{name}");
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
                refused_at(fixture.stream(request).await),
                "after_cursor",
                "{name}"
            );
        }
    }
    let request = ListSessionsRequest {
        spirit_id: other_spirit,
        page_token: fixture.sessions_after("").await.unwrap(),
        page_size: 1,
    };
    assert_eq!(
        refused_at(fixture.server.events().list_sessions(request).await),
        "page_token"
    );
    let named = ListSpiritsRequest {
        name_contains: Some("t".to_owned()),
        page_token: fixture.spirits_after("").await.unwrap(),
        ..ListSpiritsRequest::default()
    };
    assert_eq!(
        refused_at(fixture.server.spirits().list_spirits(named).await),
        "page_token"
    );
}

#[tokio::test]
async fn a_token_of_another_rpc_is_refused() {
    let fixture = Fixture::new().await;
    fixture.server.spirit().await;
    let (_, of_list) = fixture.list(fixture.list.clone()).await.unwrap();
    let (_, of_stream) = fixture.stream(fixture.stream.clone()).await.unwrap();
    let of_sessions = fixture.sessions_after("").await.unwrap();
    let of_spirits = fixture.spirits_after("").await.unwrap();
    for token in [&of_stream, &of_sessions, &of_spirits] {
        assert_eq!(refused_at(fixture.list_after(token).await), "page_token");
    }
    for token in [&of_list, &of_sessions, &of_spirits] {
        assert_eq!(refused_at(fixture.stream_after(token).await), "after_cursor");
    }
    for token in [&of_list, &of_stream, &of_spirits] {
        assert_eq!(refused_at(fixture.sessions_after(token).await), "page_token");
    }
    for token in [&of_list, &of_stream, &of_sessions] {
        assert_eq!(refused_at(fixture.spirits_after(token).await), "page_token");
    }
}

#[tokio::test]
async fn a_damaged_token_is_refused() {
    let fixture = Fixture::new().await;
    let (_, token) = fixture.list(fixture.list.clone()).await.unwrap();
    let (_, cursor) = fixture.stream(fixture.stream.clone()).await.unwrap();
    assert_eq!(of_version(&token, 1), token);
    for (name, token) in damaged(&token) {
        assert_eq!(
            refused_at(fixture.list_after(&token).await),
            "page_token",
            "{name}"
        );
    }
    for (name, cursor) in damaged(&cursor)
        .into_iter()
        .chain([("empty".to_owned(), String::new())])
    {
        assert_eq!(
            refused_at(fixture.stream_after(&cursor).await),
            "after_cursor",
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_token_is_good_for_the_same_query_in_other_words() {
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
            "types in another order, one twice",
            ListEventsRequest {
                filter: Some(filter),
                ..after.clone()
            },
        ),
        (
            "the default order named",
            ListEventsRequest {
                order: EventOrder::OldestFirst.into(),
                ..after.clone()
            },
        ),
        (
            "the spirit in capitals",
            ListEventsRequest {
                spirit_id: after.spirit_id.to_uppercase(),
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
async fn a_token_outlives_edits_and_the_deletion_of_the_event_that_it_names() {
    let fixture = Fixture::new().await;
    let mut client = fixture.server.events();
    let page = client
        .list_events(fixture.list.clone())
        .await
        .unwrap()
        .into_inner();
    let (_, cursor) = fixture.stream(fixture.stream.clone()).await.unwrap();
    let (rest, token) = fixture.list_after(&page.next_page_token).await.unwrap();
    let mut named = page.events.last().unwrap().clone();
    let request = UpdateEventRequest {
        event_id: named.id.clone(),
        role: Some("edited".to_owned()),
        ..UpdateEventRequest::default()
    };
    client.update_event(request).await.unwrap();
    assert_eq!(
        fixture.list_after(&page.next_page_token).await.unwrap(),
        (rest.clone(), token.clone())
    );
    delete(&mut client, &mut named).await;
    assert_eq!(
        fixture.list_after(&page.next_page_token).await.unwrap(),
        (rest.clone(), token)
    );
    assert_eq!(fixture.stream_after(&cursor).await.unwrap().0, rest);
}
