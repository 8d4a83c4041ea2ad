//! A reference model of reads: events in memory, filtered and sorted as the proto files specify.

use elephantasm_events::grpc::pb::batch_create_events_result::Result as Item;
use elephantasm_events::grpc::pb::event_service_client::EventServiceClient;
use elephantasm_events::grpc::pb::{
    BatchCreateEventsRequest, CreateEventRequest, Event, EventFilter, EventOrder, ListEventsRequest,
    SoftDeleteEventRequest,
};
use prost_types::Timestamp;
use prost_types::value::Kind;
use tonic::transport::Channel;

use crate::support::builders::{at, event, number, object, text};
use crate::support::harness::TestServer;

type Client = EventServiceClient<Channel>;

/// Creates events in one batch and returns them in the full view.
pub async fn store(client: &mut Client, requests: Vec<CreateEventRequest>) -> Vec<Event> {
    let contents: Vec<_> = requests
        .iter()
        .map(|request| (request.content.clone(), request.meta.clone().unwrap_or_default()))
        .collect();
    let request = BatchCreateEventsRequest {
        requests,
        ..BatchCreateEventsRequest::default()
    };
    let results = client
        .batch_create_events(request)
        .await
        .unwrap()
        .into_inner()
        .results;
    assert_eq!(results.len(), contents.len());
    let stored = results
        .into_iter()
        .zip(contents)
        .map(|(result, (content, meta))| {
            let Some(Item::Created(created)) = result.result else {
                panic!("not created: {result:?}")
            };
            Event {
                content,
                meta: Some(meta),
                ..created.event.unwrap()
            }
        });
    stored.collect()
}

/// Soft-deletes an event, in the service and in the model.
pub async fn delete(client: &mut Client, event: &mut Event) {
    let request = SoftDeleteEventRequest {
        event_id: event.id.clone(),
        ..SoftDeleteEventRequest::default()
    };
    *event = client
        .soft_delete_event(request)
        .await
        .unwrap()
        .into_inner()
        .event
        .unwrap();
}

/// Creates of 60 events that vary every filtered field: equal and back-dated times, three sessions and none,
/// scores and none.
pub fn sample_requests(spirit_id: &str) -> Vec<CreateEventRequest> {
    let requests = (0..60_u8).map(|i| {
        let n = usize::from(i);
        CreateEventRequest {
            event_type: ["message.in", "message.out", "tool.call", "error"][n / 2 % 4].to_owned(),
            content: Some(format!("content {i}")),
            meta_summary: (i % 2 == 0).then(|| format!("summary {i}")),
            occurred_at: Some(at(1_000 + i64::from(i) * 7 % 20)),
            session_id: [None, Some("a"), Some("b"), Some("a"), Some("ü")][n % 5].map(str::to_owned),
            role: [None, Some("user"), Some("assistant")][n % 3].map(str::to_owned),
            author: [None, Some("Ada"), Some("Bö"), Some("model-1")][n / 3 % 4].map(str::to_owned),
            meta: Some(object([("n", number(f64::from(i % 4))), ("s", text("x"))])),
            importance_score: [None, Some(0.0), Some(0.5), Some(1.0)][n % 4],
            ..event(spirit_id)
        }
    });
    requests.collect()
}

/// Creates a spirit with the events of [`sample_requests`], and soft-deletes some of them.
pub async fn sample_spirit(server: &TestServer) -> (String, Vec<Event>) {
    let spirit_id = server.spirit().await;
    let mut client = server.events();
    let mut events = store(&mut client, sample_requests(&spirit_id)).await;
    for event in events.iter_mut().step_by(7) {
        delete(&mut client, event).await;
    }
    (spirit_id, events)
}

/// Paths, and which values of `n` in the meta of a sample they match.
const PATHS: [(&str, &[f64]); 3] = [
    ("$.n >= 1 && $.n < 3", &[1.0, 2.0]),
    ("!($.n == 2)", &[0.0, 1.0, 3.0]),
    ("exists($.other)", &[]),
];

/// Named filters for a [`sample_spirit`]: every field by itself, and combinations.
pub fn filters() -> Vec<(&'static str, EventFilter)> {
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    let with = |change: &dyn Fn(&mut EventFilter)| {
        let mut filter = EventFilter::default();
        change(&mut filter);
        filter
    };
    let types = |f: &mut EventFilter| f.event_types = words(&["error", "message.in", "error", "none such"]);
    let meta = |n| move |f: &mut EventFilter| f.meta_contains = Some(object([("n", number(n))]));
    let path = |index: usize| move |f: &mut EventFilter| f.meta_matches = Some(PATHS[index].0.to_owned());
    let role_path_deleted = |f: &mut EventFilter| {
        f.roles = words(&["user"]);
        path(1)(f);
        f.include_deleted = true;
    };
    let span = |from, until| {
        move |f: &mut EventFilter| {
            f.occurred_from = Some(at(from));
            f.occurred_until = Some(at(until));
        }
    };
    let types_span_deleted = |f: &mut EventFilter| {
        types(f);
        span(1_004, 1_012)(f);
        f.include_deleted = true;
    };
    let role_score = |f: &mut EventFilter| {
        f.roles = words(&["user"]);
        f.min_importance = Some(0.5);
    };
    let one_type_author = |f: &mut EventFilter| {
        f.event_types = words(&["tool.call"]);
        f.authors = words(&["Ada"]);
    };
    let one_type_meta = |f: &mut EventFilter| {
        f.event_types = words(&["tool.call"]);
        meta(2.0)(f);
    };
    vec![
        ("nothing", with(&|_| {})),
        ("one type", with(&|f| f.event_types = words(&["tool.call"]))),
        (
            "an unknown type",
            with(&|f| f.event_types = words(&["none such"])),
        ),
        ("types", with(&types)),
        ("a role", with(&|f| f.roles = words(&["user"]))),
        ("roles", with(&|f| f.roles = words(&["user", "assistant"]))),
        ("an author", with(&|f| f.authors = words(&["Bö"]))),
        (
            "authors",
            with(&|f| f.authors = words(&["Ada", "model-1", "Ada", "none such"])),
        ),
        ("a score", with(&|f| f.min_importance = Some(0.5))),
        ("the lowest score", with(&|f| f.min_importance = Some(0.0))),
        ("from a time", with(&|f| f.occurred_from = Some(at(1_010)))),
        ("until a time", with(&|f| f.occurred_until = Some(at(1_010)))),
        ("a span", with(&span(1_004, 1_012))),
        ("an empty span", with(&span(1_010, 1_010))),
        ("meta", with(&meta(2.0))),
        ("other meta", with(&meta(9.0))),
        ("a path", with(&path(0))),
        ("another path", with(&path(1))),
        ("a path that matches nothing", with(&path(2))),
        ("empty meta", with(&|f| f.meta_contains = Some(object([])))),
        ("deleted events too", with(&|f| f.include_deleted = true)),
        ("types, a span, deleted events too", with(&types_span_deleted)),
        ("a role, a score", with(&role_score)),
        ("one type, an author", with(&one_type_author)),
        ("one type, meta", with(&one_type_meta)),
        ("a role, a path, deleted events too", with(&role_path_deleted)),
    ]
}

/// Returns true if the meta of an event of a sample matches one of [`PATHS`].
fn matches_path(path: &str, event: &Event) -> bool {
    let (_, numbers) = PATHS.iter().find(|(known, _)| *known == path).unwrap();
    match event.meta.as_ref().unwrap().fields["n"].kind {
        Some(Kind::NumberValue(n)) => numbers.contains(&n),
        _ => panic!("n is a number"),
    }
}

/// Returns true if an event matches a filter.
pub fn passes(filter: &EventFilter, event: &Event) -> bool {
    let EventFilter {
        event_types,
        roles,
        authors,
        min_importance,
        occurred_from,
        occurred_until,
        meta_contains,
        meta_matches,
        include_deleted,
    } = filter;
    let occurred_at = time(event);
    let any = |list: &[String], value: Option<&String>| {
        list.is_empty() || value.is_some_and(|value| list.contains(value))
    };
    any(event_types, event.event_type.as_ref())
        && any(roles, event.role.as_ref())
        && any(authors, event.author.as_ref())
        && min_importance.is_none_or(|min| event.importance_score.is_some_and(|score| score >= min))
        && occurred_from.is_none_or(|from| occurred_at >= key(from))
        && occurred_until.is_none_or(|until| occurred_at < key(until))
        && meta_contains
            .iter()
            .flat_map(|meta| &meta.fields)
            .all(|(key, value)| event.meta.as_ref().unwrap().fields.get(key) == Some(value))
        && meta_matches.as_ref().is_none_or(|path| matches_path(path, event))
        && (*include_deleted || !event.is_deleted)
}

/// The events that match the filter, in this order; of one session, or of the whole spirit (`None`).
pub fn select<'e>(
    events: &'e [Event],
    session: Option<&str>,
    filter: &EventFilter,
    order: EventOrder,
) -> Vec<&'e Event> {
    let mut selected: Vec<&Event> = events
        .iter()
        .filter(|event| session.is_none() || event.session_id.as_deref() == session)
        .filter(|event| passes(filter, event))
        .collect();
    if matches!(order, EventOrder::Sequence | EventOrder::SequenceDesc) {
        selected.sort_by_key(|event| event.sequence);
    } else {
        selected.sort_by_key(|event| position(event));
    }
    if matches!(order, EventOrder::NewestFirst | EventOrder::SequenceDesc) {
        selected.reverse();
    }
    selected
}

/// Position in replay order.
pub fn position(event: &Event) -> ((i64, i32), i64) {
    (time(event), event.sequence)
}

fn time(event: &Event) -> (i64, i32) {
    key(event.occurred_at.unwrap())
}

fn key(timestamp: Timestamp) -> (i64, i32) {
    (timestamp.seconds, timestamp.nanos)
}

pub fn sequences<'e>(events: impl IntoIterator<Item = &'e Event>) -> Vec<i64> {
    events.into_iter().map(|event| event.sequence).collect()
}

/// Reads the pages of a list from the request's page to the last.
pub async fn pages(client: &mut Client, mut request: ListEventsRequest) -> Vec<Vec<Event>> {
    let mut pages = Vec::new();
    loop {
        let page = client.list_events(request.clone()).await.unwrap().into_inner();
        pages.push(page.events);
        if page.next_page_token.is_empty() {
            return pages;
        }
        request.page_token = page.next_page_token;
        request.offset = 0;
    }
}
