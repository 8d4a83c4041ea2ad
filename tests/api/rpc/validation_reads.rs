//! Validation of the requests that read events: every field at its limit and just past it.

use elephantasm_events::grpc::pb::stream_session_events_request::Start;
use elephantasm_events::grpc::pb::watch_events_request::Start as WatchAt;
use elephantasm_events::grpc::pb::{
    CountEventsRequest, EventFilter, EventOrder, GetEventRequest, ListEventsRequest, ListSessionsRequest,
    ListSpiritsRequest, StreamSessionEventsRequest,
};
use prost_types::Timestamp;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::builders::{at, bad_fields, list, refused, stream};
use crate::support::harness::TestServer;
use crate::support::live::now;
use crate::support::validation::{
    UNKNOWN_ID, ValidationCases, Values, at_least, chars, enums, lists, metas, page_sizes, scores, times,
    uuids,
};

/// Adds cases for every field of the request's filter.
fn with_filters<R: Clone + std::fmt::Debug>(
    cases: ValidationCases<R>,
    set: impl Fn(&mut R, EventFilter),
) -> ValidationCases<R> {
    let filter_with = |change: &dyn Fn(&mut EventFilter)| {
        let mut filter = EventFilter::default();
        change(&mut filter);
        filter
    };
    let in_second_place = |value: String| vec!["ok".to_owned(), value];
    cases
        .field("filter.event_types", lists(), |r, v| {
            set(r, filter_with(&|f| f.event_types.clone_from(&v)));
        })
        .field("filter.event_types[1]", chars(100), |r, v| {
            set(r, filter_with(&|f| f.event_types = in_second_place(v.clone())));
        })
        .field("filter.roles", lists(), |r, v| {
            set(r, filter_with(&|f| f.roles.clone_from(&v)));
        })
        .field("filter.roles[1]", chars(50), |r, v| {
            set(r, filter_with(&|f| f.roles = in_second_place(v.clone())));
        })
        .field("filter.authors", lists(), |r, v| {
            set(r, filter_with(&|f| f.authors.clone_from(&v)));
        })
        .field("filter.authors[1]", chars(255), |r, v| {
            set(r, filter_with(&|f| f.authors = in_second_place(v.clone())));
        })
        .field("filter.min_importance", scores(), |r, v| {
            set(r, filter_with(&|f| f.min_importance = Some(v)));
        })
        .field("filter.occurred_from", times(), |r, v| {
            set(r, filter_with(&|f| f.occurred_from = Some(v)));
        })
        .field("filter.occurred_until", times(), |r, v| {
            set(r, filter_with(&|f| f.occurred_until = Some(v)));
        })
        .field("filter.meta_contains", metas(), |r, v| {
            set(r, filter_with(&|f| f.meta_contains = Some(v.clone())));
        })
        .field("filter.meta_matches", paths(), |r, v| {
            set(r, filter_with(&|f| f.meta_matches = Some(v.clone())));
        })
        .field("filter.occurred_from", time_ranges(), |r, (from, until)| {
            set(
                r,
                filter_with(&|f| (f.occurred_from, f.occurred_until) = (Some(from), Some(until))),
            );
        })
        .case(
            "an invalid end of a time range",
            &["filter.occurred_until"],
            |r| {
                set(
                    r,
                    filter_with(&|f| (f.occurred_from, f.occurred_until) = (Some(at(5)), Some(at(i64::MAX)))),
                );
            },
        )
}

/// Paths for `meta_matches`, of which each has one predicate at most.
fn paths() -> Values<String> {
    let long = |chars: usize| format!("$.a == \"{}\"", "é".repeat(chars - 9));
    let nested = |levels| format!("{}$.a == 1{}", "(".repeat(levels), ")".repeat(levels));
    vec![
        ("a comparison", "$.a == 1".to_owned(), true),
        ("1,000 characters", long(1_000), true),
        ("1,001 characters", long(1_001), false),
        ("empty", String::new(), false),
        ("U+0000", "$.a == \"\0\"".to_owned(), false),
        ("no path", "a = 1".to_owned(), false),
        ("no predicate", "$.a".to_owned(), false),
        ("a regular expression", "$.a like_regex \"x\"".to_owned(), false),
        ("32 levels", nested(32), true),
        ("33 levels", nested(33), false),
    ]
}

/// Time ranges for `occurred_from` and `occurred_until`, which are compared in whole microseconds.
fn time_ranges() -> Values<(Timestamp, Timestamp)> {
    let nanos = |nanos| Timestamp { seconds: 5, nanos };
    vec![
        ("from before until", (at(5), at(6)), true),
        ("from equal to until", (at(5), at(5)), true),
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
async fn get_event_validates_every_field() {
    let server = TestServer::start().await;
    let mut events = server.events();
    let base = GetEventRequest {
        event_id: UNKNOWN_ID.to_owned(),
        ..GetEventRequest::default()
    };
    ValidationCases::new(base)
        .field("event_id", uuids(), |r, v| r.event_id = v)
        .field("spirit_id", uuids(), |r, v| r.spirit_id = Some(v))
        .field("content_bytes_max", at_least(1, i32::MIN), |r, v| {
            r.content_bytes_max = Some(v);
        })
        .run(async |request| events.get_event(request).await.map(drop))
        .await;
}

#[tokio::test]
async fn list_events_validates_every_field() {
    let server = TestServer::start().await;
    let mut events = server.events();
    let cases = ValidationCases::new(list(UNKNOWN_ID))
        .field("spirit_id", uuids(), |r, v| r.spirit_id = v)
        .field("session_id", chars(255), |r, v| r.session_id = Some(v))
        .field("page_size", page_sizes(), |r, v| r.page_size = v)
        .field("offset", at_least(0, i32::MIN), |r, v| r.offset = v)
        .field("order", enums(4), |r, v| r.order = v)
        .field("after_sequence", at_least(0, i64::MIN), |r, v| {
            r.order = EventOrder::Sequence.into();
            r.after_sequence = Some(v);
        })
        .case("after_sequence in another order", &["after_sequence"], |r| {
            r.order = EventOrder::SequenceDesc.into();
            r.after_sequence = Some(0);
        })
        .field("view", enums(2), |r, v| r.view = v)
        .field("content_bytes_max", at_least(1, i32::MIN), |r, v| {
            r.content_bytes_max = Some(v);
        })
        .case("an offset with a token", &["offset"], |r| {
            r.offset = 1;
            r.page_token = "token".to_owned();
        });
    with_filters(cases, |r, v| r.filter = Some(v))
        .run(async |request| events.list_events(request).await.map(drop))
        .await;
}

#[tokio::test]
async fn stream_session_events_validates_every_field() {
    let server = TestServer::start().await;
    let mut events = server.events();
    let cases = ValidationCases::new(stream(&server.spirit().await, "s"))
        .field("spirit_id", uuids(), |r, v| r.spirit_id = v)
        .field("session_id", chars(255), |r, v| r.session_id = v)
        .field("view", enums(2), |r, v| r.view = v)
        .field("content_bytes_max", at_least(1, i32::MIN), |r, v| {
            r.content_bytes_max = Some(v);
        })
        .field("limit", at_least(0, i32::MIN), |r, v| r.limit = v)
        .field("from_time", times(), |r, v| r.start = Some(Start::FromTime(v)))
        .field("last_n", at_least(1, i32::MIN), |r, v| {
            r.start = Some(Start::LastN(v));
        })
        .case("a descending order", &["order"], |r| {
            r.order = EventOrder::SequenceDesc.into();
        })
        .case("an unknown order", &["order"], |r| r.order = 5)
        .case("a time in sequence order", &["from_time"], |r| {
            r.order = EventOrder::Sequence.into();
            r.start = Some(Start::FromTime(at(1)));
        })
        .case("a sequence in replay order", &["after_sequence"], |r| {
            r.start = Some(Start::AfterSequence(0));
        })
        .case("a negative sequence", &["after_sequence"], |r| {
            r.order = EventOrder::Sequence.into();
            r.start = Some(Start::AfterSequence(-1));
        })
        .case("a sequence after the last one", &["after_sequence"], |r| {
            r.order = EventOrder::Sequence.into();
            r.start = Some(Start::AfterSequence(1));
        });
    with_filters(cases, |r, v| r.filter = Some(v))
        .run(async |request: StreamSessionEventsRequest| {
            let mut replay = events.stream_session_events(request).await?.into_inner();
            replay.message().await.map(drop)
        })
        .await;
}

#[tokio::test]
async fn a_replay_request_reports_every_invalid_field() {
    let server = TestServer::start().await;
    let replay = async |request| -> Result<(), Status> {
        let mut replay = server.events().stream_session_events(request).await?.into_inner();
        replay.message().await.map(drop)
    };
    let request = StreamSessionEventsRequest {
        spirit_id: "x".to_owned(),
        session_id: String::new(),
        filter: Some(EventFilter {
            roles: vec![String::new()],
            ..EventFilter::default()
        }),
        view: 9,
        limit: -1,
        start: Some(Start::LastN(0)),
        follow: false,
        order: 9,
        content_bytes_max: Some(0),
    };
    let mut fields = bad_fields(replay(request).await);
    fields.sort();
    assert_eq!(
        fields,
        [
            "content_bytes_max",
            "filter.roles[0]",
            "last_n",
            "limit",
            "order",
            "session_id",
            "spirit_id",
            "view"
        ]
    );
    let valid = stream("01890a5d-ac96-774b-bcce-b302099a8057", "s");
    let table = [
        (Start::LastN(-1), "last_n"),
        (Start::FromTime(at(-62_135_596_801)), "from_time"),
        (Start::FromTime(at(253_402_300_800)), "from_time"),
    ];
    for (start, field) in table {
        let request = StreamSessionEventsRequest {
            start: Some(start.clone()),
            ..valid.clone()
        };
        let fields = bad_fields(replay(request).await);
        assert!(
            fields.iter().all(|bad| bad.starts_with(field)) && fields.len() == 1,
            "{start:?}: {fields:?}"
        );
    }
}

#[tokio::test]
async fn watch_events_validates_every_field() {
    let server = TestServer::start().await;
    let mut events = server.events();
    let cases = ValidationCases::new(now(UNKNOWN_ID))
        .field("spirit_id", uuids(), |r, v| r.spirit_id = v)
        .field("view", enums(2), |r, v| r.view = v)
        .field("content_bytes_max", at_least(1, i32::MIN), |r, v| {
            r.content_bytes_max = Some(v);
        })
        .field("start_at", enums(2), |r, v| r.start = Some(WatchAt::StartAt(v)))
        .field("after_sequence", at_least(0, i64::MIN), |r, v| {
            r.start = Some(WatchAt::AfterSequence(v));
        })
        .field("session_id", chars(255), |r, v| r.session_id = Some(v));
    with_filters(cases, |r, v| r.filter = Some(v))
        .run(async |request| events.watch_events(request).await.map(drop))
        .await;
}

#[tokio::test]
async fn count_events_validates_every_field() {
    let server = TestServer::start().await;
    let mut events = server.events();
    let base = CountEventsRequest {
        spirit_id: UNKNOWN_ID.to_owned(),
        ..CountEventsRequest::default()
    };
    let cases = ValidationCases::new(base)
        .field("spirit_id", uuids(), |r, v| r.spirit_id = v)
        .field("session_id", chars(255), |r, v| r.session_id = Some(v));
    with_filters(cases, |r, v| r.filter = Some(v))
        .run(async |request| events.count_events(request).await.map(drop))
        .await;
}

#[tokio::test]
async fn list_sessions_validates_every_field() {
    let server = TestServer::start().await;
    let mut sessions = server.sessions();
    let base = ListSessionsRequest {
        spirit_id: UNKNOWN_ID.to_owned(),
        ..ListSessionsRequest::default()
    };
    ValidationCases::new(base)
        .field("spirit_id", uuids(), |r, v| r.spirit_id = v)
        .field("page_size", page_sizes(), |r, v| r.page_size = v)
        .run(async |request| sessions.list_sessions(request).await.map(drop))
        .await;
}

#[tokio::test]
async fn a_malformed_token_is_refused_instead_of_returning_the_first_page() {
    let server = TestServer::start().await;
    let (mut events, mut spirits, mut sessions) = (server.events(), server.spirits(), server.sessions());
    for bad in ["x", "a\0b", "🐘", " ", &"A".repeat(10_000)] {
        let page_token = bad.to_owned();
        let listed = events.list_events(ListEventsRequest {
            page_token: page_token.clone(),
            ..list(UNKNOWN_ID)
        });
        assert_bad_cursor(listed.await, "page_token");
        let listed = sessions.list_sessions(ListSessionsRequest {
            spirit_id: UNKNOWN_ID.to_owned(),
            page_token: page_token.clone(),
            ..ListSessionsRequest::default()
        });
        assert_bad_cursor(listed.await, "page_token");
        for name_contains in [None, Some("x".to_owned())] {
            let listed = spirits.list_spirits(ListSpiritsRequest {
                name_contains,
                page_token: page_token.clone(),
                ..ListSpiritsRequest::default()
            });
            assert_bad_cursor(listed.await, "page_token");
        }
        let replayed = events.stream_session_events(StreamSessionEventsRequest {
            start: Some(Start::AfterCursor(page_token)),
            ..stream(UNKNOWN_ID, "s")
        });
        assert_bad_cursor(replayed.await, "after_cursor");
    }
}

/// Asserts that a call failed with INVALID_CURSOR that names only this field.
#[track_caller]
fn assert_bad_cursor<T>(result: Result<T, Status>, field: &str) {
    let status = refused(result, Code::InvalidArgument, "INVALID_CURSOR");
    let violations = status.get_details_bad_request().unwrap().field_violations;
    assert_eq!((violations.len(), violations[0].field.as_str()), (1, field));
}
