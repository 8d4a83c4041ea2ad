//! The transition of a follow from replay to live under load: every event arrives exactly once, in replay
//! order before the transition and in sequence order after it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use elephantasm_events::grpc::pb::stream_session_events_request::Start;
use elephantasm_events::grpc::pb::{Event, StreamSessionEventsRequest};
use tokio::task::JoinSet;

use crate::support::builders::{at, create, event_at};
use crate::support::harness::{Settings, TestServer};
use crate::support::live::{Item, Rng, follow, following};
use crate::support::model::{position, sequences, store};

const WRITERS: usize = 2;
const FOLLOWERS: usize = 8;
/// Transitions that each follower makes; more than a thousand in all.
const TRANSITIONS: usize = 130;
const SESSIONS: u64 = 8;
const SECONDS: u64 = 1_000;

type Servers = [Arc<TestServer>; 2];

/// The events that a follower received before and after one transition.
struct Transition {
    session_id: String,
    start: Start,
    replayed: Vec<i64>,
    live: Vec<i64>,
}

fn random_server<'s>(servers: &'s Servers, rng: &mut Rng) -> &'s TestServer {
    &servers[usize::try_from(rng.below(2)).unwrap()]
}

/// Creates back-dated events in all sessions, one by one and in batches, until `done` is set.
async fn write_events(servers: Servers, spirit_id: String, done: Arc<AtomicBool>) -> Vec<Event> {
    let mut rng = Rng::new();
    let mut stored = Vec::new();
    while !done.load(Ordering::Relaxed) {
        let mut client = random_server(&servers, &mut rng).events();
        let requests = (0..=rng.below(4)).map(|_| {
            let (session, seconds) = (rng.below(SESSIONS).to_string(), rng.below(SECONDS));
            event_at(&spirit_id, &session, i64::try_from(seconds).unwrap())
        });
        let mut requests: Vec<_> = requests.collect();
        if requests.len() > 1 {
            stored.extend(store(&mut client, requests).await);
        } else {
            stored.push(create(&mut client, requests.remove(0)).await);
        }
    }
    stored
}

/// Follows a session from replay to live with streams that end at their limit or are dropped, each resumed
/// from the last cursor on a random server.
async fn follow_transition(servers: &Servers, spirit_id: &str, rng: &mut Rng) -> Transition {
    let session_id = rng.below(SESSIONS).to_string();
    let start = match rng.below(16) {
        0..=3 => Start::FromTime(at(990)),
        n => Start::LastN(i32::try_from(n).unwrap() - 3),
    };
    let live_wanted = 1 + usize::try_from(rng.below(3)).unwrap();
    let (mut replayed, mut live) = (Vec::new(), Vec::new());
    let (mut next_start, mut past_replay) = (Some(start.clone()), false);
    while live.len() < live_wanted {
        let request = StreamSessionEventsRequest {
            start: next_start.clone(),
            limit: [0, 0, 1, 3, 6][usize::try_from(rng.below(5)).unwrap()],
            ..following(spirit_id, &session_id)
        };
        let mut follower = follow(random_server(servers, rng), request).await.unwrap();
        for _ in 0..1_u32 << rng.below(8) {
            let Some((item, cursor)) = follower.next().await.unwrap() else {
                break;
            };
            next_start = Some(Start::AfterCursor(cursor));
            match item {
                Item::Event(event) if past_replay => live.push(event.sequence),
                Item::Event(event) => replayed.push(event.sequence),
                Item::CaughtUp => past_replay = true,
                Item::Heartbeat | Item::Change(_) => {}
            }
            if live.len() == live_wanted {
                break;
            }
        }
    }
    Transition {
        session_id,
        start,
        replayed,
        live,
    }
}

/// The replay that a follow with this start sends before its first live event.
fn expected_replay(session: &[Event], start: &Start, first_live: i64) -> Vec<i64> {
    let mut replayed: Vec<&Event> = session.iter().filter(|e| e.sequence < first_live).collect();
    replayed.sort_by_key(|event| position(event));
    match start {
        Start::LastN(n) => {
            let skip = replayed.len().saturating_sub(usize::try_from(*n).unwrap());
            replayed.drain(..skip);
        }
        Start::FromTime(time) => {
            replayed.retain(|event| event.occurred_at.unwrap().seconds >= time.seconds);
        }
        Start::AfterCursor(_) | Start::AfterSequence(_) => unreachable!("no transition starts there"),
    }
    sequences(replayed)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_follows_under_load_neither_lose_repeat_nor_reorder_events() {
    // Opening connections is slow in an unoptimised build.
    let small_pool = |settings: &mut Settings| settings.store.pool_size = 3;
    let first = Arc::new(TestServer::start_with(small_pool).await);
    let second = Arc::new(TestServer::start_on(first.database.clone(), small_pool).await);
    let spirit_id = first.spirit().await;
    let servers = [first, second];
    let done = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        writers.spawn(write_events(
            servers.clone(),
            spirit_id.clone(),
            Arc::clone(&done),
        ));
    }
    let mut followers = JoinSet::new();
    for _ in 0..FOLLOWERS {
        let (servers, spirit_id) = (servers.clone(), spirit_id.clone());
        followers.spawn(async move {
            let mut rng = Rng::new();
            let mut transitions = Vec::new();
            for _ in 0..TRANSITIONS {
                transitions.push(follow_transition(&servers, &spirit_id, &mut rng).await);
            }
            transitions
        });
    }
    let transitions = followers.join_all().await.into_iter().flatten();
    done.store(true, Ordering::Relaxed);
    let mut sessions: HashMap<String, Vec<Event>> = HashMap::new();
    for event in writers.join_all().await.concat() {
        sessions
            .entry(event.session_id().to_owned())
            .or_default()
            .push(event);
    }
    for session in sessions.values_mut() {
        session.sort_by_key(|event| event.sequence);
    }
    for Transition {
        session_id,
        start,
        replayed,
        live,
    } in transitions
    {
        let session = &sessions[&session_id];
        assert_eq!(replayed, expected_replay(session, &start, live[0]), "{start:?}");
        let from_first_live = session.iter().filter(|event| event.sequence >= live[0]);
        let expected_live = sequences(from_first_live.take(live.len()));
        assert_eq!(live, expected_live, "{start:?}");
    }
}
