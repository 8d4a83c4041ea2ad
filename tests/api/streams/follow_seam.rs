//! The seam between replay and live, crossed under load: nothing lost, nothing twice, and each side in
//! its own order.

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
/// Of each follower; more than a thousand in all.
const CROSSINGS: usize = 130;
const SESSIONS: u64 = 8;
const SECONDS: u64 = 1_000;

type Servers = [Arc<TestServer>; 2];

/// What a follower saw on both sides of one seam.
struct Crossing {
    session_id: String,
    start: Start,
    replayed: Vec<i64>,
    live: Vec<i64>,
}

fn either<'s>(servers: &'s Servers, rng: &mut Rng) -> &'s TestServer {
    &servers[usize::try_from(rng.below(2)).unwrap()]
}

/// Writes back-dated events into all sessions, alone and in batches, until it is enough.
async fn write(servers: Servers, spirit_id: String, enough: Arc<AtomicBool>) -> Vec<Event> {
    let mut rng = Rng::new();
    let mut stored = Vec::new();
    while !enough.load(Ordering::Relaxed) {
        let mut client = either(&servers, &mut rng).events();
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

/// Follows a session across its seam in streams that end by their limit or are dropped, each resumed
/// from the last cursor on either server.
async fn cross(servers: &Servers, spirit_id: &str, rng: &mut Rng) -> Crossing {
    let session_id = rng.below(SESSIONS).to_string();
    let start = match rng.below(16) {
        0..=3 => Start::FromTime(at(990)),
        n => Start::LastN(i32::try_from(n).unwrap() - 3),
    };
    let live_wanted = 1 + usize::try_from(rng.below(3)).unwrap();
    let (mut replayed, mut live) = (Vec::new(), Vec::new());
    let (mut place, mut is_behind) = (Some(start.clone()), false);
    while live.len() < live_wanted {
        let request = StreamSessionEventsRequest {
            start: place.clone(),
            limit: [0, 0, 1, 3, 6][usize::try_from(rng.below(5)).unwrap()],
            ..following(spirit_id, &session_id)
        };
        let mut follower = follow(either(servers, rng), request).await.unwrap();
        for _ in 0..1_u32 << rng.below(8) {
            let Some((item, cursor)) = follower.next().await.unwrap() else {
                break;
            };
            place = Some(Start::AfterCursor(cursor));
            match item {
                Item::Event(event) if is_behind => live.push(event.sequence),
                Item::Event(event) => replayed.push(event.sequence),
                Item::CaughtUp => is_behind = true,
                Item::Heartbeat => {}
            }
            if live.len() == live_wanted {
                break;
            }
        }
    }
    Crossing {
        session_id,
        start,
        replayed,
        live,
    }
}

/// What a follower that starts so sees of a session before its first live event.
fn replay(session: &[Event], start: &Start, first_live: i64) -> Vec<i64> {
    let mut before: Vec<&Event> = session.iter().filter(|e| e.sequence < first_live).collect();
    before.sort_by_key(|event| position(event));
    match start {
        Start::LastN(n) => {
            let skip = before.len().saturating_sub(usize::try_from(*n).unwrap());
            before.drain(..skip);
        }
        Start::FromTime(time) => {
            before.retain(|event| event.occurred_at.unwrap().seconds >= time.seconds);
        }
        Start::AfterCursor(_) => unreachable!("no start of a crossing"),
    }
    sequences(before)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_crossings_under_load_neither_lose_nor_repeat_nor_misplace_an_event() {
    // Connections are slow to make without optimisation.
    let few = |settings: &mut Settings| settings.store.pool_size = 3;
    let here = Arc::new(TestServer::start_with(few).await);
    let there = Arc::new(TestServer::start_on(here.database.clone(), few).await);
    let spirit_id = here.spirit().await;
    let servers = [here, there];
    let enough = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        writers.spawn(write(servers.clone(), spirit_id.clone(), Arc::clone(&enough)));
    }
    let mut followers = JoinSet::new();
    for _ in 0..FOLLOWERS {
        let (servers, spirit_id) = (servers.clone(), spirit_id.clone());
        followers.spawn(async move {
            let mut rng = Rng::new();
            let mut crossings = Vec::new();
            for _ in 0..CROSSINGS {
                crossings.push(cross(&servers, &spirit_id, &mut rng).await);
            }
            crossings
        });
    }
    let crossings = followers.join_all().await.into_iter().flatten();
    enough.store(true, Ordering::Relaxed);
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
    for Crossing {
        session_id,
        start,
        replayed,
        live,
    } in crossings
    {
        let session = &sessions[&session_id];
        assert_eq!(replayed, replay(session, &start, live[0]), "{start:?}");
        let behind = session.iter().filter(|event| event.sequence >= live[0]);
        assert_eq!(live, sequences(behind.take(live.len())), "{start:?}");
    }
}
