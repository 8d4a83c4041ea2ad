//! Property tests of cursors: random events are read with random filters and orders, page by page and as
//! resumed streams, while events are created, deleted, restored and updated. The results are compared with a
//! sorted model.

mod damage;
mod tokens;

use std::collections::HashSet;

use elephantasm_events::grpc::pb::event_service_client::EventServiceClient;
use elephantasm_events::grpc::pb::stream_session_events_request::Start;
use elephantasm_events::grpc::pb::{
    CreateEventRequest, Event, EventFilter, EventOrder, ListEventsRequest, RestoreEventRequest,
    StreamSessionEventsRequest, UpdateEventRequest,
};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use tonic::transport::Channel;

use crate::support::builders::{at, drain, event, list, number, object, stream};
use crate::support::harness::TestServer;
use crate::support::model::{delete, pages, position, select, sequences, store};

const CASES: u32 = 32;

const SESSIONS: [Option<&str>; 4] = [Some("a"), Some("b"), Some("🐘"), None];
const TYPES: [&str; 3] = ["message.in", "message.out", "error"];
const ROLES: [Option<&str>; 3] = [Some("user"), Some("tool"), None];
const SCORES: [Option<f64>; 3] = [Some(0.25), Some(0.75), None];

/// Parameters of an event: indexes into the arrays above, `occurred_at` in seconds and a number in `meta`.
type Seed = (usize, usize, usize, usize, i64, u8);

#[derive(Clone, Debug)]
enum Change {
    Create(Seed),
    Delete(Index),
    Restore(Index),
    UpdateScore(Index),
}

/// A read through all pages of a query: the initial events, the changes made between pages, the query and the
/// page sizes.
#[derive(Clone, Debug)]
struct Walk {
    seeds: Vec<Seed>,
    deleted: Vec<Index>,
    changes: Vec<Change>,
    session: usize,
    filter: EventFilter,
    order: EventOrder,
    sizes: Vec<i32>,
}

fn seed() -> impl Strategy<Value = Seed> {
    (
        0..SESSIONS.len(),
        0..TYPES.len(),
        0..ROLES.len(),
        0..SCORES.len(),
        0..8_i64,
        0..3_u8,
    )
}

fn filter() -> impl Strategy<Value = EventFilter> {
    let words = |words: Vec<&'static str>| {
        let some = prop::sample::subsequence(words.clone(), 1..=words.len());
        prop_oneof![2 => Just(Vec::new()), 1 => some]
            .prop_map(|words| words.into_iter().map(str::to_owned).collect::<Vec<_>>())
    };
    (
        words(TYPES.to_vec()),
        words(ROLES.into_iter().flatten().collect()),
        prop::option::weighted(0.2, 0.0..1.0),
        prop::option::weighted(0.3, 0..5_i64),
        prop::option::weighted(0.3, 5..8_i64),
        prop::option::weighted(0.2, 0..3_u8),
        any::<bool>(),
    )
        .prop_map(
            |(event_types, roles, min_importance, from, until, meta, include_deleted)| EventFilter {
                event_types,
                roles,
                min_importance,
                occurred_from: from.map(at),
                occurred_until: until.map(at),
                meta_contains: meta.map(|n| object([("n", number(n.into()))])),
                include_deleted,
                ..EventFilter::default()
            },
        )
}

fn walk() -> impl Strategy<Value = Walk> {
    let change = prop_oneof![
        seed().prop_map(Change::Create),
        any::<Index>().prop_map(Change::Delete),
        any::<Index>().prop_map(Change::Restore),
        any::<Index>().prop_map(Change::UpdateScore),
    ];
    (
        prop::collection::vec(seed(), 1..60),
        prop::collection::vec(any::<Index>(), 0..10),
        prop::collection::vec(change, 0..12),
        0..SESSIONS.len(),
        filter(),
        prop::sample::select(vec![
            EventOrder::NewestFirst,
            EventOrder::OldestFirst,
            EventOrder::Sequence,
            EventOrder::SequenceDesc,
        ]),
        prop::collection::vec(1..9_i32, 1..5),
    )
        .prop_map(|(seeds, deleted, changes, session, filter, order, sizes)| Walk {
            seeds,
            deleted,
            changes,
            session,
            filter,
            order,
            sizes,
        })
}

/// The events in the service and in the model, and the sequences of those that changed during the walk.
struct Model {
    client: EventServiceClient<Channel>,
    spirit_id: String,
    events: Vec<Event>,
    changed: HashSet<i64>,
}

impl Model {
    async fn new(server: &TestServer, walk: &Walk) -> Self {
        let mut model = Self {
            client: server.events(),
            spirit_id: server.spirit().await,
            events: Vec::new(),
            changed: HashSet::new(),
        };
        let requests = walk.seeds.iter().map(|seed| model.request(*seed)).collect();
        model.events = store(&mut model.client, requests).await;
        for index in &walk.deleted {
            model.apply(Change::Delete(*index)).await;
        }
        model.changed.clear();
        model
    }

    fn request(&self, (session, event_type, role, score, seconds, n): Seed) -> CreateEventRequest {
        CreateEventRequest {
            session_id: SESSIONS[session].map(str::to_owned),
            event_type: TYPES[event_type].to_owned(),
            role: ROLES[role].map(str::to_owned),
            importance_score: SCORES[score],
            occurred_at: Some(at(seconds)),
            meta: Some(object([("n", number(n.into()))])),
            ..event(&self.spirit_id)
        }
    }

    async fn apply(&mut self, change: Change) {
        let index = match change {
            Change::Create(seed) => {
                let request = self.request(seed);
                self.events.extend(store(&mut self.client, vec![request]).await);
                self.events.len() - 1
            }
            Change::Delete(index) => {
                let index = index.index(self.events.len());
                delete(&mut self.client, &mut self.events[index]).await;
                index
            }
            Change::Restore(index) => {
                let index = index.index(self.events.len());
                let event_id = self.events[index].id.clone();
                let request = RestoreEventRequest {
                    event_id,
                    ..RestoreEventRequest::default()
                };
                let response = self.client.restore_event(request).await.unwrap();
                self.events[index] = response.into_inner().event.unwrap();
                index
            }
            Change::UpdateScore(index) => {
                let index = index.index(self.events.len());
                let request = UpdateEventRequest {
                    event_id: self.events[index].id.clone(),
                    importance_score: Some(0.5),
                    ..UpdateEventRequest::default()
                };
                let response = self.client.update_event(request).await.unwrap();
                self.events[index] = response.into_inner().event.unwrap();
                index
            }
        };
        self.changed.insert(self.events[index].sequence);
    }

    /// Asserts that the events read are in order without duplicates, and that they include exactly the
    /// expected ones among those that did not change.
    fn check(&self, received: &[Event], session: Option<&str>, filter: &EventFilter, order: EventOrder) {
        let in_order = received.is_sorted_by(|one, next| match order {
            EventOrder::NewestFirst => position(one) > position(next),
            EventOrder::Sequence => one.sequence < next.sequence,
            EventOrder::SequenceDesc => one.sequence > next.sequence,
            _ => position(one) < position(next),
        });
        assert!(in_order, "out of order or duplicated: {:?}", sequences(received));
        let unchanged = |event: &&Event| !self.changed.contains(&event.sequence);
        let expected = select(&self.events, session, filter, order);
        let received: Vec<&Event> = received.iter().filter(unchanged).collect();
        let expected: Vec<&Event> = expected.into_iter().filter(unchanged).collect();
        assert_eq!(
            sequences(received.iter().copied()),
            sequences(expected.iter().copied())
        );
        assert_eq!(received, expected);
    }
}

/// Reads pages with a change after each, then again without changes.
async fn check_pages(server: &TestServer, walk: Walk) {
    let mut model = Model::new(server, &walk).await;
    let session = SESSIONS[walk.session];
    let order = walk.order;
    let query = ListEventsRequest {
        session_id: session.map(str::to_owned),
        filter: Some(walk.filter.clone()),
        order: order.into(),
        ..list(&model.spirit_id)
    };
    let mut changes = walk.changes.into_iter();
    let mut sizes = walk.sizes.iter().cycle();
    let (mut received, mut page_token) = (Vec::new(), String::new());
    loop {
        let page_size = *sizes.next().unwrap();
        let request = ListEventsRequest {
            page_size,
            page_token,
            ..query.clone()
        };
        let page = model.client.list_events(request).await.unwrap().into_inner();
        received.extend(page.events);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
        if let Some(change) = changes.next() {
            model.apply(change).await;
        }
    }
    model.check(&received, session, &walk.filter, order);

    model.changed.clear();
    let request = ListEventsRequest {
        page_size: walk.sizes[0],
        ..query
    };
    let received = pages(&mut model.client, request).await.concat();
    model.check(&received, session, &walk.filter, order);
}

/// Reads streams that each resume at the previous one's cursor, with a change in between; then one whole
/// stream.
async fn check_streams(server: &TestServer, walk: Walk) {
    let mut model = Model::new(server, &walk).await;
    let session = SESSIONS[walk.session].unwrap_or("a");
    let order = match walk.order {
        EventOrder::Sequence | EventOrder::SequenceDesc => EventOrder::Sequence,
        _ => EventOrder::OldestFirst,
    };
    let query = StreamSessionEventsRequest {
        filter: Some(walk.filter.clone()),
        order: order.into(),
        ..stream(&model.spirit_id, session)
    };
    let mut changes = walk.changes.into_iter();
    let mut sizes = walk.sizes.iter().cycle();
    let (mut received, mut start) = (Vec::new(), None);
    loop {
        let limit = *sizes.next().unwrap();
        let request = StreamSessionEventsRequest {
            limit,
            start,
            ..query.clone()
        };
        let response = model.client.stream_session_events(request).await.unwrap();
        let items = drain(response.into_inner()).await.unwrap();
        let Some((_, cursor)) = items.last().cloned() else {
            break;
        };
        received.extend(items.into_iter().map(|(event, _)| event));
        start = Some(Start::AfterCursor(cursor));
        if let Some(change) = changes.next() {
            model.apply(change).await;
        }
    }
    model.check(&received, Some(session), &walk.filter, order);

    model.changed.clear();
    let response = model.client.stream_session_events(query).await.unwrap();
    let items = drain(response.into_inner()).await.unwrap();
    let received: Vec<Event> = items.into_iter().map(|(event, _)| event).collect();
    model.check(&received, Some(session), &walk.filter, order);
}

/// Checks random walks, the same ones in each run.
fn check_walks(check: impl AsyncFn(&TestServer, Walk)) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(TestServer::start());
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let checked = runner.run(&walk(), |walk| {
        runtime.block_on(check(&server, walk));
        Ok(())
    });
    checked.unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn pages_return_unchanged_events_exactly_once_while_others_change() {
    check_walks(check_pages);
}

#[test]
fn resumed_streams_return_unchanged_events_exactly_once_while_others_change() {
    check_walks(check_streams);
}
