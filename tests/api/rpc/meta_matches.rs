//! `EventFilter.meta_matches`: paths that PostgreSQL accepts, and paths that are refused before an event is read.

use std::time::Duration;

use elephantasm_events::grpc::pb::{
    CountEventsRequest, CreateEventRequest, EventFilter, ListEventsRequest, StreamSessionEventsRequest,
    WatchEventsRequest,
};
use prost_types::Struct;
use prost_types::value::Kind;
use sqlx::PgConnection;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::builders::{bad_fields, drain, event_at, list, number, object, refused, stream, text};
use crate::support::harness::{TestServer, eventually};
use crate::support::live::{beginning, now, watch};
use crate::support::model::{sequences, store};
use crate::support::validation::{list_of, value};

#[allow(clippy::unnecessary_wraps)] // the type of the requests' field
fn filter(path: &str) -> Option<EventFilter> {
    Some(EventFilter {
        meta_matches: Some(path.to_owned()),
        ..EventFilter::default()
    })
}

fn counting(spirit_id: &str, path: &str) -> CountEventsRequest {
    CountEventsRequest {
        spirit_id: spirit_id.to_owned(),
        filter: filter(path),
        ..CountEventsRequest::default()
    }
}

/// Stores an event for each meta, in a session `s`.
async fn store_metas(server: &TestServer, spirit_id: &str, metas: Vec<Struct>) {
    let requests = (0..).zip(metas).map(|(n, meta)| CreateEventRequest {
        meta: Some(meta),
        ..event_at(spirit_id, "s", n)
    });
    store(&mut server.events(), requests.collect()).await;
}

fn metas() -> Vec<Struct> {
    let tags = |tags: &[&str]| list_of(tags.iter().map(|tag| text(tag)).collect());
    let usage = |tokens| value(Kind::StructValue(object([("tokens", number(tokens))])));
    vec![
        object([("n", number(2.0)), ("usage", usage(10.0))]),
        object([("n", number(3.0)), ("tags", tags(&["draft", "a b"]))]),
        object([("n", number(4.5)), ("error", value(Kind::BoolValue(true)))]),
        object([("n", number(5.0)), ("usage", usage(20.0))]),
        object([("n", text("3")), ("tags", tags(&["final"]))]),
        object([]),
    ]
}

/// Paths, and the sequences of the events of [`metas`] that they select.
const SELECTED: [(&str, &[i64]); 18] = [
    ("$.n >= 3 && $.n < 5", &[2, 3]),
    ("  $.n  ==  3  ", &[2]),
    ("$.n == 3 || $.n == \"3\"", &[2, 5]),
    ("exists($.error)", &[3]),
    ("exists($.usage ? (@.tokens > 15))", &[4]),
    ("!exists($.n)", &[6]),
    ("!($.tags[*] == \"draft\")", &[1, 3, 4, 5, 6]),
    ("$.tags[*] starts with \"a\"", &[2]),
    ("($.n > 1) is unknown", &[5]),
    ("$.usage.tokens + 1 == 21", &[4]),
    ("$.**.tokens == 10", &[1]),
    ("$.tags[0, 1] == \"a b\"", &[2]),
    ("$.error == true", &[3]),
    ("$.n / 0 == 1", &[]),
    ("$.n.double() == 3", &[2, 5]),
    ("strict $.usage.tokens > 0", &[1, 4]),
    ("$.like_regex == \" like_regex \"", &[]),
    ("1 == 1", &[1, 2, 3, 4, 5, 6]),
];

#[tokio::test]
async fn paths_select_events_in_lists_counts_and_streams() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut events = server.events();
    let mut live = Vec::new();
    for (path, selected) in SELECTED {
        let request = WatchEventsRequest {
            filter: filter(path),
            ..now(&spirit_id)
        };
        let mut watcher = watch(&server, request).await.unwrap();
        watcher.caught_up().await;
        live.push((path, selected, watcher));
    }
    store_metas(&server, &spirit_id, metas()).await;
    for (path, selected, mut watcher) in live {
        assert_eq!(watcher.sequences(selected.len()).await, selected, "live: {path}");
    }
    for (path, selected) in SELECTED {
        let count = events.count_events(counting(&spirit_id, path)).await.unwrap();
        assert_eq!(
            usize::try_from(count.into_inner().count).unwrap(),
            selected.len(),
            "{path}"
        );
        let mut request = ListEventsRequest {
            filter: filter(path),
            session_id: Some("s".to_owned()),
            page_size: 2,
            ..list(&spirit_id)
        };
        let mut listed = Vec::new();
        loop {
            let page = events.list_events(request.clone()).await.unwrap().into_inner();
            listed.extend(sequences(&page.events));
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        assert_eq!(listed, selected, "{path}");
        let request = StreamSessionEventsRequest {
            filter: filter(path),
            ..stream(&spirit_id, "s")
        };
        let replay = events.stream_session_events(request).await.unwrap().into_inner();
        let replayed = drain(replay)
            .await
            .unwrap()
            .into_iter()
            .map(|(event, _)| event.sequence);
        assert_eq!(replayed.collect::<Vec<_>>(), selected, "{path}");
    }
}

/// Asserts that the call refused the path; returns the reason.
#[track_caller]
fn reason<T>(result: Result<T, Status>) -> String {
    let status = refused(result, Code::InvalidArgument, "INVALID_FIELD");
    let violations = status
        .get_details_bad_request()
        .expect("BadRequest")
        .field_violations;
    let [violation] = violations.as_slice() else {
        panic!("{violations:?}")
    };
    assert_eq!(violation.field, "filter.meta_matches");
    violation.description.clone()
}

/// Paths that are refused, and a part of the reason.
fn refused_paths() -> Vec<(String, &'static str)> {
    let nested = |levels| format!("{}$.a == 1{}", "(".repeat(levels), ")".repeat(levels));
    let mut paths: Vec<(String, &str)> = [
        ("", "1 to 1000 characters"),
        (" ", "must be a SQL/JSON path"),
        ("$.a ==", "must be a SQL/JSON path"),
        ("$.a = 1", "syntax error"),
        ("a == 1", "must be a SQL/JSON path"),
        ("$.a == 'x'", "must be a SQL/JSON path"),
        ("$.a == \"\\u0000\"", "must be a SQL/JSON path"),
        ("$.a == \"\\ud83d\"", "must be a SQL/JSON path"),
        ("$.a == 1'; drop table events; --", "must be a SQL/JSON path"),
        ("@.a == 1", "must be a SQL/JSON path"),
        ("$.a like_regex \"(\"", "must be a SQL/JSON path"),
        ("$.a like_regex \"x\"", "like_regex"),
        ("$.a LIKE_REGEX \"x\" flag \"i\"", "like_regex"),
        ("$.a \\u006cike_regex \"x\"", "like_regex"),
        ("exists($.a ? (@ like_regex \"x\"))", "like_regex"),
        ("$x == 1", "must not use variables"),
        ("$.a == $\"b\"", "must not use variables"),
        ("$.a", "must be a predicate"),
        ("$", "must be a predicate"),
        ("true", "must be a predicate"),
        ("$ ? (@.a == 1)", "must be a predicate"),
        ("$.a + 1", "must be a predicate"),
        ("($.a == 1).type()", "must be a predicate"),
        ("$.a[($.b == 1).type()]", "must be a predicate"),
        ("$.a /* == 1 */", "must be a predicate"),
        ("$.**.** == 1", "must not select so many values"),
        ("$.** ? (@.** == 1) == 1", "must not select so many values"),
        ("$.a == 1e131071", "16 KiB"),
    ]
    .map(|(path, reason)| (path.to_owned(), reason))
    .into();
    paths.extend([
        (nested(33), "nested"),
        (nested(400), "nested"),
        ("[".repeat(1_000), "nested"),
        (format!("$.a == {}$.b", "-".repeat(900)), "nested"),
        (
            format!("${} == 1", "[0,0]".repeat(190)),
            "must not select so many values",
        ),
        (
            format!("${} == 1", ".keyvalue()".repeat(80)),
            "must not select so many values",
        ),
        ("x".repeat(1_001), "1 to 1000 characters"),
    ]);
    paths
}

#[tokio::test]
async fn every_call_with_a_filter_refuses_a_bad_path_with_the_reason_before_it_reads_events() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut events = server.events();
    for (path, expected) in refused_paths() {
        let listed = events.list_events(ListEventsRequest {
            filter: filter(&path),
            ..list(&spirit_id)
        });
        let reasons = [
            reason(listed.await),
            reason(events.count_events(counting(&spirit_id, &path)).await),
            reason(
                watch(
                    &server,
                    WatchEventsRequest {
                        filter: filter(&path),
                        ..now(&spirit_id)
                    },
                )
                .await
                .map(drop),
            ),
            reason(
                events
                    .stream_session_events(StreamSessionEventsRequest {
                        filter: filter(&path),
                        ..stream(&spirit_id, "s")
                    })
                    .await,
            ),
        ];
        assert!(reasons[0].contains(expected), "{path}: {}", reasons[0]);
        assert!(
            reasons.iter().all(|reason| *reason == reasons[0]),
            "{path}: {reasons:?}"
        );
    }
}

#[tokio::test]
async fn a_bad_path_is_reported_together_with_the_other_bad_fields() {
    let server = TestServer::start().await;
    let request = ListEventsRequest {
        filter: filter("$.a"),
        page_size: -1,
        ..list("x")
    };
    let mut fields = bad_fields(server.events().list_events(request).await);
    fields.sort_unstable();
    assert_eq!(fields, ["filter.meta_matches", "page_size", "spirit_id"]);
}

/// Whether PostgreSQL's grammar takes the path for a predicate: only then may `is unknown` follow it.
async fn is_predicate(connection: &mut PgConnection, path: &str) -> bool {
    let wrapped = match path.strip_prefix("strict ") {
        Some(path) => format!("strict ({path}) is unknown"),
        None => format!("({path}) is unknown"),
    };
    let parsed = sqlx::query("select $1::text::jsonpath").bind(wrapped);
    parsed.execute(connection).await.is_ok()
}

#[tokio::test]
async fn a_path_is_a_predicate_exactly_if_it_is_one_for_postgresql() {
    const OPERANDS: [&str; 9] = [
        "$",
        "$.a",
        "\"a == b\"",
        "($.a + 1)",
        "-$.a",
        "$.a ? (@ == 1 && exists(@.b))",
        "($.a == 1).type()",
        "(exists($.a)).type()",
        "$.a[($.b == 1).type()]",
    ];
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut connection = server.database.connect().await;
    let mut paths: Vec<String> = OPERANDS.map(str::to_owned).into();
    for a in OPERANDS {
        paths.extend([
            format!("exists({a})"),
            format!("!exists({a})"),
            format!("(exists({a}))"),
        ]);
        for operator in ["==", "<>", "!=", "<", ">=", "+", "*", "%", "starts with", "&&"] {
            for b in ["$.b", "\"x\"", "(2 - $.b)"] {
                let path = format!("{a} {operator} {b}");
                paths.extend([
                    format!("strict {path}"),
                    format!("({path})"),
                    format!("!({path})"),
                    format!("({path}) is unknown"),
                    format!("({path}).type()"),
                    format!("({path}) || $.c > 1"),
                    format!("({path}) + 1"),
                    path,
                ]);
            }
        }
    }
    let mut accepted = 0;
    for path in &paths {
        let parsed = sqlx::query("select $1::text::jsonpath").bind(path);
        let is_path = parsed.execute(&mut connection).await.is_ok();
        let expected = is_path && is_predicate(&mut connection, path).await;
        let counted = server.events().count_events(counting(&spirit_id, path)).await;
        assert_eq!(counted.is_ok(), expected, "{path}: {counted:?}");
        if !expected {
            let part = if is_path {
                "must be a predicate"
            } else {
                "must be a SQL/JSON path"
            };
            assert!(reason(counted).contains(part), "{path}");
        }
        accepted += usize::from(expected);
    }
    assert!(accepted > 500, "{accepted} of {} paths", paths.len());
}

#[tokio::test]
async fn errors_that_only_an_event_can_cause_name_the_path() {
    let server = TestServer::start().await;
    let spirit_id = server.spirit().await;
    let mut events = server.events();
    for path in [
        "$.at.datetime() < \"2025-01-01 00:00:00+00\".datetime()",
        "$.at.datetime(\"no template?\") == 1",
    ] {
        let count = events.count_events(counting(&spirit_id, path)).await.unwrap();
        assert_eq!(count.into_inner().count, 0, "no event needs the comparison");
        let request = WatchEventsRequest {
            filter: filter(path),
            ..beginning(&spirit_id)
        };
        let mut watcher = watch(&server, request.clone()).await.unwrap();
        watcher.caught_up().await;
        store_metas(&server, &spirit_id, vec![object([("at", text("2024-12-31"))])]).await;
        let reasons = [
            reason(watcher.error().await),
            reason(events.count_events(counting(&spirit_id, path)).await),
            reason(watch(&server, request).await.unwrap().error().await),
            reason(
                events
                    .list_events(ListEventsRequest {
                        filter: filter(path),
                        ..list(&spirit_id)
                    })
                    .await,
            ),
        ];
        assert!(
            reasons
                .iter()
                .all(|reason| reason.starts_with("cannot be evaluated: ")),
            "{reasons:?}"
        );
        let mut connection = server.database.connect().await;
        sqlx::query("delete from events")
            .execute(&mut connection)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_slow_path_ends_at_the_time_limit_of_a_statement() {
    let server = TestServer::start_with(|settings| {
        settings.store.statement_timeout = Duration::from_secs(1);
    })
    .await;
    let spirit_id = server.spirit().await;
    let many = list_of((0..16_000).map(|n| number(f64::from(n % 10))).collect());
    store_metas(&server, &spirit_id, vec![object([("a", many)]); 10]).await;
    let all_pairs = "$.a[*] ? (@ < 9) > $.a[*] ? (@ == 9)";
    let slow = server
        .events()
        .count_events(counting(&spirit_id, all_pairs))
        .await;
    refused(slow, Code::DeadlineExceeded, "DEADLINE");
    eventually("the server answers other calls", async || {
        let counted = server
            .events()
            .count_events(counting(&spirit_id, "exists($.a)"))
            .await;
        counted.ok()
    })
    .await;
}
