//! Every bound of the requests that read events, at the bound and one past it.

use elephantasm_events::grpc::pb::stream_session_events_request::Start;
use elephantasm_events::grpc::pb::watch_events_request::Start as WatchAt;
use elephantasm_events::grpc::pb::{
    CountEventsRequest, EventFilter, GetEventRequest, ListEventsRequest, ListSessionsRequest,
    ListSpiritsRequest, StreamSessionEventsRequest,
};
use prost_types::Timestamp;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::builders::{at, list, refused, stream};
use crate::support::harness::TestServer;
use crate::support::live::now;
use crate::support::probes::{
    Probe, UNKNOWN, Values, at_least, chars, enums, lists, metas, page_sizes, scores, times, uuids,
};

/// Tries all that a filter can be, in a request that takes one.
fn with_filters<R: Clone + std::fmt::Debug>(probe: Probe<R>, set: impl Fn(&mut R, EventFilter)) -> Probe<R> {
    let one = |change: &dyn Fn(&mut EventFilter)| {
        let mut filter = EventFilter::default();
        change(&mut filter);
        filter
    };
    let second = |value: String| vec!["ok".to_owned(), value];
    probe
        .field("filter.event_types", lists(), |r, v| {
            set(r, one(&|f| f.event_types.clone_from(&v)));
        })
        .field("filter.event_types[1]", chars(100), |r, v| {
            set(r, one(&|f| f.event_types = second(v.clone())));
        })
        .field("filter.roles", lists(), |r, v| {
            set(r, one(&|f| f.roles.clone_from(&v)));
        })
        .field("filter.roles[1]", chars(50), |r, v| {
            set(r, one(&|f| f.roles = second(v.clone())));
        })
        .field("filter.min_importance", scores(), |r, v| {
            set(r, one(&|f| f.min_importance = Some(v)));
        })
        .field("filter.occurred_from", times(), |r, v| {
            set(r, one(&|f| f.occurred_from = Some(v)));
        })
        .field("filter.occurred_until", times(), |r, v| {
            set(r, one(&|f| f.occurred_until = Some(v)));
        })
        .field("filter.meta_contains", metas(), |r, v| {
            set(r, one(&|f| f.meta_contains = Some(v.clone())));
        })
        .field("filter.occurred_from", spans(), |r, (from, until)| {
            set(
                r,
                one(&|f| (f.occurred_from, f.occurred_until) = (Some(from), Some(until))),
            );
        })
        .case("a bad end of a span", &["filter.occurred_until"], |r| {
            set(
                r,
                one(&|f| (f.occurred_from, f.occurred_until) = (Some(at(5)), Some(at(i64::MAX)))),
            );
        })
}

/// From and until; compared once they are whole microseconds.
fn spans() -> Values<(Timestamp, Timestamp)> {
    let nanos = |nanos| Timestamp { seconds: 5, nanos };
    vec![
        ("from before until", (at(5), at(6)), true),
        ("from at until", (at(5), at(5)), true),
        (
            "from a nanosecond after until",
            (nanos(1_001), nanos(1_000)),
            true,
        ),
        (
            "from a microsecond after until",
            (nanos(2_000), nanos(1_000)),
            false,
        ),
        ("from after until, before 1970", (at(-5), at(-6)), false),
    ]
}

#[tokio::test]
async fn get_event_keeps_every_bound() {
    let server = TestServer::start().await;
    let mut events = server.events();
    let base = GetEventRequest {
        event_id: UNKNOWN.to_owned(),
        ..GetEventRequest::default()
    };
    Probe::new(base)
        .field("event_id", uuids(), |r, v| r.event_id = v)
        .field("spirit_id", uuids(), |r, v| r.spirit_id = Some(v))
        .run(async |request| events.get_event(request).await.map(drop))
        .await;
}

#[tokio::test]
async fn list_events_keeps_every_bound() {
    let server = TestServer::start().await;
    let mut events = server.events();
    let probe = Probe::new(list(UNKNOWN))
        .field("spirit_id", uuids(), |r, v| r.spirit_id = v)
        .field("session_id", chars(255), |r, v| r.session_id = Some(v))
        .field("page_size", page_sizes(), |r, v| r.page_size = v)
        .field("offset", at_least(0, i32::MIN), |r, v| r.offset = v)
        .field("order", enums(2), |r, v| r.order = v)
        .field("view", enums(2), |r, v| r.view = v)
        .case("an offset with a token", &["offset"], |r| {
            r.offset = 1;
            r.page_token = "token".to_owned();
        });
    with_filters(probe, |r, v| r.filter = Some(v))
        .run(async |request| events.list_events(request).await.map(drop))
        .await;
}

#[tokio::test]
async fn stream_session_events_keeps_every_bound() {
    let server = TestServer::start().await;
    let mut events = server.events();
    let probe = Probe::new(stream(UNKNOWN, "s"))
        .field("spirit_id", uuids(), |r, v| r.spirit_id = v)
        .field("session_id", chars(255), |r, v| r.session_id = v)
        .field("view", enums(2), |r, v| r.view = v)
        .field("limit", at_least(0, i32::MIN), |r, v| r.limit = v)
        .field("from_time", times(), |r, v| r.start = Some(Start::FromTime(v)))
        .field("last_n", at_least(1, i32::MIN), |r, v| {
            r.start = Some(Start::LastN(v));
        });
    with_filters(probe, |r, v| r.filter = Some(v))
        .run(async |request: StreamSessionEventsRequest| {
            let mut replay = events.stream_session_events(request).await?.into_inner();
            replay.message().await.map(drop)
        })
        .await;
}

#[tokio::test]
async fn watch_events_keeps_every_bound() {
    let server = TestServer::start().await;
    let mut events = server.events();
    let probe = Probe::new(now(UNKNOWN))
        .field("spirit_id", uuids(), |r, v| r.spirit_id = v)
        .field("view", enums(2), |r, v| r.view = v)
        .field("start_at", enums(2), |r, v| r.start = Some(WatchAt::StartAt(v)))
        .field("after_sequence", at_least(0, i64::MIN), |r, v| {
            r.start = Some(WatchAt::AfterSequence(v));
        });
    with_filters(probe, |r, v| r.filter = Some(v))
        .run(async |request| events.watch_events(request).await.map(drop))
        .await;
}

#[tokio::test]
async fn count_events_keeps_every_bound() {
    let server = TestServer::start().await;
    let mut events = server.events();
    let base = CountEventsRequest {
        spirit_id: UNKNOWN.to_owned(),
        ..CountEventsRequest::default()
    };
    let probe = Probe::new(base)
        .field("spirit_id", uuids(), |r, v| r.spirit_id = v)
        .field("session_id", chars(255), |r, v| r.session_id = Some(v));
    with_filters(probe, |r, v| r.filter = Some(v))
        .run(async |request| events.count_events(request).await.map(drop))
        .await;
}

#[tokio::test]
async fn list_sessions_keeps_every_bound() {
    let server = TestServer::start().await;
    let mut events = server.events();
    let base = ListSessionsRequest {
        spirit_id: UNKNOWN.to_owned(),
        ..ListSessionsRequest::default()
    };
    Probe::new(base)
        .field("spirit_id", uuids(), |r, v| r.spirit_id = v)
        .field("page_size", page_sizes(), |r, v| r.page_size = v)
        .run(async |request| events.list_sessions(request).await.map(drop))
        .await;
}

#[tokio::test]
async fn a_token_that_is_none_is_refused_and_never_page_one() {
    let server = TestServer::start().await;
    let (mut events, mut spirits) = (server.events(), server.spirits());
    for bad in ["x", "a\0b", "🐘", " ", &"A".repeat(10_000)] {
        let page_token = bad.to_owned();
        let listed = events.list_events(ListEventsRequest {
            page_token: page_token.clone(),
            ..list(UNKNOWN)
        });
        names_the_token(listed.await, "page_token");
        let sessions = events.list_sessions(ListSessionsRequest {
            spirit_id: UNKNOWN.to_owned(),
            page_token: page_token.clone(),
            ..ListSessionsRequest::default()
        });
        names_the_token(sessions.await, "page_token");
        for name_contains in [None, Some("x".to_owned())] {
            let listed = spirits.list_spirits(ListSpiritsRequest {
                name_contains,
                page_token: page_token.clone(),
                ..ListSpiritsRequest::default()
            });
            names_the_token(listed.await, "page_token");
        }
        let replayed = events.stream_session_events(StreamSessionEventsRequest {
            start: Some(Start::AfterCursor(page_token)),
            ..stream(UNKNOWN, "s")
        });
        names_the_token(replayed.await, "after_cursor");
    }
}

#[track_caller]
fn names_the_token<T>(result: Result<T, Status>, field: &str) {
    let status = refused(result, Code::InvalidArgument, "INVALID_CURSOR");
    let violations = status.get_details_bad_request().unwrap().field_violations;
    assert_eq!((violations.len(), violations[0].field.as_str()), (1, field));
}
