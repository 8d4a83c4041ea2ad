//! Every watcher receives every acknowledged event that is not purged exactly once and in order, under concurrent
//! writers, purges and reconnects. No read that begins after a purge returns what it removed.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use elephantasm_events::grpc::pb::batch_create_events_result::Result as BatchItem;
use elephantasm_events::grpc::pb::ingest_events_response::Result as IngestItem;
use elephantasm_events::grpc::pb::{
    BatchCreateEventsRequest, ChangeKind, CreateEventRequest, Event, EventFilter, EventOrder,
    GetSpiritRequest, ListEventsRequest,
};
use tokio::task::JoinSet;

use crate::purges::{of_session, purged};
use crate::streams::ingest_events::Ingest;
use crate::support::builders::{create, drain, event, event_at, list, stream};
use crate::support::harness::TestServer;
use crate::support::live::{Item, Rng, after, changes_after, watch};
use crate::support::model::pages;

const WRITERS: usize = 4;
const WATCHERS: usize = 4;
/// Writes (unary calls, batches or streams) of each writer.
const ROUNDS: usize = 40;
const SESSIONS: u64 = 20;
/// Sessions that are purged, the first ones.
const PURGED_SESSIONS: u64 = 10;
/// Content of the last event.
const LAST: &str = "last";

/// Sequence, id and session of an event.
type EventKey = (i64, String, String);

fn key(event: Event) -> EventKey {
    (event.sequence, event.id, event.session_id.unwrap_or_default())
}

fn random_event(rng: &mut Rng, spirit_id: &str) -> CreateEventRequest {
    let (session, seconds) = (rng.below(SESSIONS).to_string(), rng.below(2_000_000_000));
    event_at(spirit_id, &session, i64::try_from(seconds).unwrap())
}

/// Creates events at random by unary call, batch and ingest; returns the acknowledged ones.
async fn write_events(server: &TestServer, spirit_id: &str) -> Vec<EventKey> {
    let mut rng = Rng::new();
    let mut acknowledged = Vec::new();
    for _ in 0..ROUNDS {
        match rng.below(4) {
            0 => {
                let requests = (0..5).map(|_| random_event(&mut rng, spirit_id)).collect();
                acknowledged.extend(create_batch(server, requests).await);
            }
            1 => {
                let stream = Ingest::open(server).await;
                let mut sessions = Vec::new();
                for n in 0..10 {
                    let request = random_event(&mut rng, spirit_id);
                    sessions.push(request.session_id().to_owned());
                    stream.send(n, request).await;
                }
                for (session, answer) in sessions.into_iter().zip(stream.finish().await) {
                    let Some(IngestItem::Receipt(receipt)) = answer.result else {
                        panic!("an item was rejected: {answer:?}")
                    };
                    acknowledged.push((receipt.sequence, receipt.event_id, session));
                }
            }
            _ => {
                let created = create(&mut server.events(), random_event(&mut rng, spirit_id)).await;
                acknowledged.push(key(created));
            }
        }
    }
    acknowledged
}

async fn create_batch(server: &TestServer, requests: Vec<CreateEventRequest>) -> Vec<EventKey> {
    let request = BatchCreateEventsRequest {
        requests,
        ..BatchCreateEventsRequest::default()
    };
    let response = server.events().batch_create_events(request).await.unwrap();
    let results = response.into_inner().results.into_iter();
    let stored = results.map(|result| match result.result {
        Some(BatchItem::Created(created)) => created.event.unwrap(),
        other => panic!("an item was rejected: {other:?}"),
    });
    stored.map(key).collect()
}

/// Watches up to the last event in short streams on random servers, each resumed after the last received
/// sequence.
async fn watch_in_short_streams(servers: [Arc<TestServer>; 2], spirit_id: String) -> Vec<EventKey> {
    let mut rng = Rng::new();
    let mut received: Vec<EventKey> = Vec::new();
    let mut position = 0;
    loop {
        let server = &servers[usize::try_from(rng.below(2)).unwrap()];
        let mut watcher = watch(server, after(&spirit_id, position)).await.unwrap();
        for _ in 0..rng.below(40) {
            let (item, sequence) = watcher.next().await.unwrap().unwrap();
            position = sequence;
            let Item::Event(event) = item else { continue };
            let is_last = event.content.as_deref() == Some(LAST);
            received.push(key(*event));
            if is_last {
                return received;
            }
        }
    }
}

/// Purges random sessions until `done`; checks after each purge what both servers return. Returns the number of purged
/// events.
async fn purge_sessions(servers: [Arc<TestServer>; 2], spirit_id: String, done: Arc<AtomicBool>) -> usize {
    let mut rng = Rng::new();
    let mut count = 0;
    loop {
        let is_last = done.load(Ordering::Acquire);
        let session_id = rng.below(PURGED_SESSIONS).to_string();
        let bound = last_sequence(&servers[0], &spirit_id).await;
        let server = &servers[usize::try_from(rng.below(2)).unwrap()];
        let purge = purged(server, of_session(&spirit_id, &session_id));
        let (_, purged_count) = purge.await.unwrap();
        count += usize::try_from(purged_count).unwrap();
        for server in &servers {
            for (sequence, _, session) in read_all(server, &spirit_id, &session_id).await {
                let is_left = session != session_id || sequence > bound;
                assert!(
                    is_left,
                    "event {sequence} is read after the purge of {session_id}"
                );
            }
        }
        if is_last {
            return count;
        }
    }
}

async fn last_sequence(server: &TestServer, spirit_id: &str) -> i64 {
    let request = GetSpiritRequest {
        spirit_id: spirit_id.to_owned(),
        ..GetSpiritRequest::default()
    };
    let response = server.spirits().get_spirit(request).await.unwrap();
    response.into_inner().spirit.unwrap().last_sequence
}

/// The events that a list and a replay of the session, and a watch of the spirit from its beginning, return.
async fn read_all(server: &TestServer, spirit_id: &str, session_id: &str) -> Vec<EventKey> {
    let of_session = ListEventsRequest {
        session_id: Some(session_id.to_owned()),
        ..list_all(spirit_id)
    };
    let mut events = pages(&mut server.events(), of_session).await.concat();
    let replay = server
        .events()
        .stream_session_events(stream(spirit_id, session_id))
        .await;
    let replayed = drain(replay.unwrap().into_inner()).await.unwrap();
    events.extend(replayed.into_iter().map(|(event, _)| event));
    let mut watcher = watch(server, after(spirit_id, 0)).await.unwrap();
    while let Some((Item::Event(event), _)) = watcher.next().await.unwrap() {
        events.push(*event);
    }
    events.into_iter().map(key).collect()
}

/// A list of all events in the order of their sequences.
fn list_all(spirit_id: &str) -> ListEventsRequest {
    ListEventsRequest {
        order: EventOrder::Sequence.into(),
        filter: Some(EventFilter {
            include_deleted: true,
            ..EventFilter::default()
        }),
        page_size: 200,
        ..list(spirit_id)
    }
}

/// The sequences that the changes of the spirit report as purged.
async fn purged_sequences(server: &TestServer, spirit_id: &str) -> HashSet<i64> {
    let mut sequences = HashSet::new();
    let mut watcher = changes_after(server, spirit_id, 0).await.unwrap();
    while let Some((Item::Change(change), _)) = watcher.next().await.unwrap() {
        assert_eq!(change.kind(), ChangeKind::Purged);
        for sequence in change.sequences {
            assert!(sequences.insert(sequence), "event {sequence} is purged twice");
        }
    }
    sequences
}

/// Asserts that exactly the events that no purge removed are stored, and that every watcher received them in order, with
/// none but acknowledged events between them.
async fn assert_only_purged_events_are_missing(
    server: &TestServer,
    spirit_id: &str,
    acknowledged: Vec<EventKey>,
    watched: Vec<Vec<EventKey>>,
) -> usize {
    let purged = purged_sequences(server, spirit_id).await;
    for (sequence, _, session) in &acknowledged {
        let may_be_purged = session
            .parse()
            .is_ok_and(|session: u64| session < PURGED_SESSIONS);
        assert!(
            may_be_purged || !purged.contains(sequence),
            "{sequence} of {session}"
        );
    }
    let is_left = |key: &&EventKey| !purged.contains(&key.0);
    let left: Vec<&EventKey> = acknowledged.iter().filter(is_left).collect();
    let listed = pages(&mut server.events(), list_all(spirit_id)).await.concat();
    let listed: Vec<EventKey> = listed.into_iter().map(key).collect();
    assert!(listed.iter().eq(left.iter().copied()), "{listed:?} of {left:?}");
    for received in watched {
        assert!(received.is_sorted_by(|one, next| one < next), "{received:?}");
        let acknowledged_only = received.iter().all(|key| acknowledged.binary_search(key).is_ok());
        assert!(acknowledged_only, "{received:?} of {acknowledged:?}");
        let received = received.iter().filter(is_left);
        assert!(
            received.clone().eq(left.iter().copied()),
            "{received:?} of {left:?}"
        );
    }
    purged.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn reconnecting_watchers_receive_every_event_of_many_writers_exactly_once_in_order_beside_purges() {
    let first = Arc::new(TestServer::start().await);
    let second = Arc::new(TestServer::start_on(first.database.clone(), |_| {}).await);
    let spirit_id = first.spirit().await;
    let servers = [first, second];

    let mut watchers = JoinSet::new();
    for _ in 0..WATCHERS {
        watchers.spawn(watch_in_short_streams(servers.clone(), spirit_id.clone()));
    }
    let done = Arc::new(AtomicBool::new(false));
    let purger = tokio::spawn(purge_sessions(
        servers.clone(),
        spirit_id.clone(),
        Arc::clone(&done),
    ));
    let mut writers = JoinSet::new();
    for n in 0..WRITERS {
        let (server, spirit_id) = (Arc::clone(&servers[n % 2]), spirit_id.clone());
        writers.spawn(async move { write_events(&server, &spirit_id).await });
    }
    let mut acknowledged = writers.join_all().await.concat();
    done.store(true, Ordering::Release);
    let purged_count = purger.await.unwrap();
    let last = CreateEventRequest {
        content: Some(LAST.to_owned()),
        ..event(&spirit_id)
    };
    acknowledged.push(key(create(&mut servers[0].events(), last).await));
    acknowledged.sort();

    let watched = watchers.join_all().await;
    let removed = assert_only_purged_events_are_missing(&servers[0], &spirit_id, acknowledged, watched).await;
    assert!(removed > 0);
    assert_eq!(removed, purged_count);
}
