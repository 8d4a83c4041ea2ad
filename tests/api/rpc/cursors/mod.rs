//! Cursors: walks of random events in random orders under random filters, page by page and as a
//! stream, while events come, go and change, say what a sorted model says.

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

/// An event's choices among the above, its time and a number in its `meta`.
type Seed = (usize, usize, usize, usize, i64, u8);

#[derive(Clone, Debug)]
enum Change {
    Insert(Seed),
    Delete(Index),
    Restore(Index),
    Rescore(Index),
}

/// A walk: over which events, changed how between its pages, in pages of which sizes.
#[derive(Clone, Debug)]
struct Walk {
    seeds: Vec<Seed>,
    deleted: Vec<Index>,
    changes: Vec<Change>,
    session: usize,
    filter: EventFilter,
    newest_first: bool,
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
            },
        )
}

fn walk() -> impl Strategy<Value = Walk> {
    let change = prop_oneof![
        seed().prop_map(Change::Insert),
        any::<Index>().prop_map(Change::Delete),
        any::<Index>().prop_map(Change::Restore),
        any::<Index>().prop_map(Change::Rescore),
    ];
    (
        prop::collection::vec(seed(), 1..60),
        prop::collection::vec(any::<Index>(), 0..10),
        prop::collection::vec(change, 0..12),
        0..SESSIONS.len(),
        filter(),
        any::<bool>(),
        prop::collection::vec(1..9_i32, 1..5),
    )
        .prop_map(
            |(seeds, deleted, changes, session, filter, newest_first, sizes)| Walk {
                seeds,
                deleted,
                changes,
                session,
                filter,
                newest_first,
                sizes,
            },
        )
}

/// The events of a walk as they are now, and which of them changed since it began.
struct World {
    client: EventServiceClient<Channel>,
    spirit_id: String,
    events: Vec<Event>,
    changed: HashSet<i64>,
}

impl World {
    async fn new(server: &TestServer, walk: &Walk) -> Self {
        let mut world = Self {
            client: server.events(),
            spirit_id: server.spirit().await,
            events: Vec::new(),
            changed: HashSet::new(),
        };
        let requests = walk.seeds.iter().map(|seed| world.request(*seed)).collect();
        world.events = store(&mut world.client, requests).await;
        for index in &walk.deleted {
            world.apply(Change::Delete(*index)).await;
        }
        world.changed.clear();
        world
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
            Change::Insert(seed) => {
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
            Change::Rescore(index) => {
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

    /// What came is in order, nothing twice; of what did not change, it is exactly what it should be.
    fn check(&self, came: &[Event], session: Option<&str>, filter: &EventFilter, order: EventOrder) {
        let in_order = came.is_sorted_by(|one, next| match order {
            EventOrder::NewestFirst => position(one) > position(next),
            _ => position(one) < position(next),
        });
        assert!(in_order, "out of order or twice: {:?}", sequences(came));
        let unchanged = |event: &&Event| !self.changed.contains(&event.sequence);
        let expected = select(&self.events, session, filter, order);
        let came: Vec<&Event> = came.iter().filter(unchanged).collect();
        let expected: Vec<&Event> = expected.into_iter().filter(unchanged).collect();
        assert_eq!(
            sequences(came.iter().copied()),
            sequences(expected.iter().copied())
        );
        assert_eq!(came, expected);
    }
}

/// Pages, with a change between each and the next; then without changes.
async fn check_pages(server: &TestServer, walk: Walk) {
    let mut world = World::new(server, &walk).await;
    let session = SESSIONS[walk.session];
    let order = if walk.newest_first {
        EventOrder::NewestFirst
    } else {
        EventOrder::OldestFirst
    };
    let query = ListEventsRequest {
        session_id: session.map(str::to_owned),
        filter: Some(walk.filter.clone()),
        order: order.into(),
        ..list(&world.spirit_id)
    };
    let mut changes = walk.changes.into_iter();
    let mut sizes = walk.sizes.iter().cycle();
    let (mut came, mut page_token) = (Vec::new(), String::new());
    loop {
        let page_size = *sizes.next().unwrap();
        let request = ListEventsRequest {
            page_size,
            page_token,
            ..query.clone()
        };
        let page = world.client.list_events(request).await.unwrap().into_inner();
        came.extend(page.events);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
        if let Some(change) = changes.next() {
            world.apply(change).await;
        }
    }
    world.check(&came, session, &walk.filter, order);

    world.changed.clear();
    let request = ListEventsRequest {
        page_size: walk.sizes[0],
        ..query
    };
    let came = pages(&mut world.client, request).await.concat();
    world.check(&came, session, &walk.filter, order);
}

/// Streams that each resume where the one before stopped, with a change in between; then one whole.
async fn check_streams(server: &TestServer, walk: Walk) {
    let mut world = World::new(server, &walk).await;
    let session = SESSIONS[walk.session].unwrap_or("a");
    let query = StreamSessionEventsRequest {
        filter: Some(walk.filter.clone()),
        ..stream(&world.spirit_id, session)
    };
    let mut changes = walk.changes.into_iter();
    let mut sizes = walk.sizes.iter().cycle();
    let (mut came, mut start) = (Vec::new(), None);
    loop {
        let limit = *sizes.next().unwrap();
        let request = StreamSessionEventsRequest {
            limit,
            start,
            ..query.clone()
        };
        let response = world.client.stream_session_events(request).await.unwrap();
        let items = drain(response.into_inner()).await.unwrap();
        let Some((_, cursor)) = items.last().cloned() else {
            break;
        };
        came.extend(items.into_iter().map(|(event, _)| event));
        start = Some(Start::AfterCursor(cursor));
        if let Some(change) = changes.next() {
            world.apply(change).await;
        }
    }
    world.check(&came, Some(session), &walk.filter, EventOrder::OldestFirst);

    world.changed.clear();
    let response = world.client.stream_session_events(query).await.unwrap();
    let items = drain(response.into_inner()).await.unwrap();
    let came: Vec<Event> = items.into_iter().map(|(event, _)| event).collect();
    world.check(&came, Some(session), &walk.filter, EventOrder::OldestFirst);
}

/// Runs the same walks every time.
fn for_walks(check: impl AsyncFn(&TestServer, Walk)) {
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
fn a_walk_by_pages_gives_everything_once_while_events_come_go_and_change() {
    for_walks(check_pages);
}

#[test]
fn a_walk_by_resumed_streams_gives_everything_once_while_events_come_go_and_change() {
    for_walks(check_streams);
}
