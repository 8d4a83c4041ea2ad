//! Changes are numbered without gaps in the order of their commits, and every watcher receives each exactly once,
//! under concurrent edits, deletions, purges and creates through two instances, and when their connections to the
//! database are killed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use elephantasm_events::grpc::pb::{
    ChangeKind, Event, EventChange, EventFilter, EventOrder, GetSpiritRequest, ListEventsRequest,
    PurgeEventsRequest, RestoreEventsRequest, SoftDeleteEventsRequest, UpdateEventRequest,
};
use tokio::task::JoinSet;
use tonic::{Code, Status};

use crate::purges::{of_spirit, purged};
use crate::support::builders::{event_at, list, metadata};
use crate::support::harness::{Settings, TestServer, eventually};
use crate::support::live::{Item, Rng, changes_after};
use crate::support::model::{pages, store};

const WRITERS: usize = 6;
const WATCHERS: usize = 2;
/// Edits, deletions, restores, purges and creates of each writer.
const ROUNDS: usize = 200;
/// Rounds of a writer after which it purges an event.
const PURGE_EVERY: usize = 40;
/// Rounds of a writer after which it kills all connections to the database.
const KILL_EVERY: usize = 150;
const EVENTS: u64 = 60;
const SESSIONS: u64 = 5;

/// Edits, deletes, restores and purges random events, one or many at once, and creates others.
async fn change_events(server: Arc<TestServer>, spirit_id: String, events: Arc<Vec<Event>>) {
    let mut rng = Rng::new();
    let mut client = server.events();
    let mut deleted_at = None;
    for round in 0..ROUNDS {
        let event = &events[usize::try_from(rng.below(EVENTS)).unwrap()];
        let session_id = rng.below(SESSIONS).to_string();
        let edit = UpdateEventRequest {
            event_id: event.id.clone(),
            ..UpdateEventRequest::default()
        };
        let result = match rng.below(10) {
            _ if round % PURGE_EVERY == PURGE_EVERY - 1 => {
                let request = PurgeEventsRequest {
                    event_ids: vec![event.id.clone()],
                    ..of_spirit(&spirit_id)
                };
                purged(&server, request).await.map(|_| ())
            }
            0 => {
                let request = SoftDeleteEventsRequest {
                    spirit_id: spirit_id.clone(),
                    session_id: Some(session_id),
                    ..SoftDeleteEventsRequest::default()
                };
                let deleted = client.soft_delete_events(request).await;
                deleted.map(|reply| deleted_at = reply.into_inner().deleted_at)
            }
            1 => {
                let request = RestoreEventsRequest {
                    spirit_id: spirit_id.clone(),
                    deleted_at: deleted_at.or(event.created_at),
                    ..RestoreEventsRequest::default()
                };
                client.restore_events(request).await.map(|_| ())
            }
            2 => {
                let request = event_at(&spirit_id, &session_id, i64::try_from(round).unwrap());
                client.create_event(request).await.map(|_| ())
            }
            n @ 3..=4 => {
                let is_deleted = Some(n == 3);
                client
                    .update_event(UpdateEventRequest { is_deleted, ..edit })
                    .await
                    .map(|_| ())
            }
            _ => {
                let role = Some(rng.below(1_000_000).to_string());
                client
                    .update_event(UpdateEventRequest { role, ..edit })
                    .await
                    .map(|_| ())
            }
        };
        assert_ok_or_interrupted(result);
        if round % KILL_EVERY == KILL_EVERY / 2 {
            kill_connections(&server).await;
        }
    }
}

/// Asserts that a call succeeded, was interrupted by a kill of its connection, or met a purged event.
fn assert_ok_or_interrupted(result: Result<(), Status>) {
    if let Err(status) = result {
        let expected = [Code::Unavailable, Code::NotFound];
        assert!(expected.contains(&status.code()), "{status:?}");
    }
}

/// Watches up to this change in short streams on random servers, each resumed after the last received change.
async fn watch_in_short_streams(
    servers: [Arc<TestServer>; 2],
    spirit_id: String,
    last: Arc<tokio::sync::OnceCell<i64>>,
) -> Vec<EventChange> {
    let mut rng = Rng::new();
    let mut received: Vec<EventChange> = Vec::new();
    let mut position = 0;
    loop {
        let server = &servers[usize::try_from(rng.below(2)).unwrap()];
        let Ok(mut watcher) = changes_after(server, &spirit_id, position).await else {
            continue;
        };
        for _ in 0..rng.below(200) {
            if last.get().is_some_and(|last| *last == position) {
                return received;
            }
            match watcher.next().await {
                Ok(Some((item, change))) => {
                    position = change;
                    if let Item::Change(change) = item {
                        received.push(*change);
                    }
                }
                Ok(None) => panic!("a watch ended"),
                Err(end) => {
                    assert_eq!(end.code(), Code::Unavailable, "{end:?}");
                    assert_eq!(metadata(&end, "change"), position.to_string());
                    break;
                }
            }
        }
    }
}

/// Ends the connections of both servers to the database.
async fn kill_connections(server: &TestServer) {
    sqlx::query(
        "select pg_terminate_backend(pid)
         from pg_stat_activity
         where datname = current_database() and application_name like 'elephantasm-events%'",
    )
    .execute(&mut server.database.connect().await)
    .await
    .unwrap();
}

/// Asserts that the changes explain the state of every event, each of whose changes raised its revision by one, and
/// which of the first events are missing. Returns the ids of the purged events.
fn assert_complete(changes: &[EventChange], first: &[Event], events: &[Event]) -> HashSet<String> {
    let mut revisions: HashMap<&str, (i64, bool)> = HashMap::new();
    let mut purged = HashSet::new();
    for (change, number) in changes.iter().zip(1..) {
        assert_eq!(change.change, number);
        for id in &change.event_ids {
            assert!(!purged.contains(id), "a change after the purge: {change:?}");
            let (revision, is_deleted) = revisions.entry(id).or_insert((1, false));
            *revision += 1;
            assert!(change.revision == 0 || change.revision == *revision, "{change:?}");
            match change.kind() {
                ChangeKind::Deleted => *is_deleted = true,
                ChangeKind::Restored => *is_deleted = false,
                ChangeKind::Purged => assert!(purged.insert(id.clone())),
                ChangeKind::Updated | ChangeKind::Unspecified => {}
            }
        }
    }
    for event in events {
        let state = revisions.get(event.id.as_str()).copied().unwrap_or((1, false));
        assert_eq!(state, (event.revision, event.is_deleted), "{event:?}");
    }
    let left: HashSet<&str> = events.iter().map(|event| event.id.as_str()).collect();
    for Event { id, .. } in first {
        assert_ne!(
            left.contains(id.as_str()),
            purged.contains(id),
            "{id} is left or purged"
        );
    }
    purged
}

/// Asserts that the stored changes hold no former values of these events.
async fn assert_forgotten(server: &TestServer, spirit_id: &str, purged: &HashSet<String>) {
    assert!(!purged.is_empty());
    let mut watcher = changes_after(server, spirit_id, 0).await.unwrap();
    while let Some((Item::Change(change), _)) = watcher.next().await.unwrap() {
        let has_former_values = change.previous.is_some();
        let is_of_purged = change.event_ids.iter().any(|id| purged.contains(id));
        assert!(!has_former_values || !is_of_purged, "{change:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_receive_every_change_exactly_once_and_concurrent_edits_deletions_purges_and_creates_never_deadlock()
 {
    // A watcher that has received everything notices the end at a heartbeat.
    let heartbeat = |settings: &mut Settings| settings.store.live.heartbeat = Duration::from_millis(100);
    let first = Arc::new(TestServer::start_with(heartbeat).await);
    let second = Arc::new(TestServer::start_on(first.database.clone(), heartbeat).await);
    let spirit_id = first.spirit().await;
    let requests = (0..EVENTS).map(|n| event_at(&spirit_id, &(n % SESSIONS).to_string(), 0));
    let events = Arc::new(store(&mut first.events(), requests.collect()).await);
    let servers = [Arc::clone(&first), second];

    let last = Arc::default();
    let mut watchers = JoinSet::new();
    for _ in 0..WATCHERS {
        watchers.spawn(watch_in_short_streams(
            servers.clone(),
            spirit_id.clone(),
            Arc::clone(&last),
        ));
    }
    let mut writers = JoinSet::new();
    for n in 0..WRITERS {
        writers.spawn(change_events(
            Arc::clone(&servers[n % 2]),
            spirit_id.clone(),
            Arc::clone(&events),
        ));
    }
    writers.join_all().await;
    let request = GetSpiritRequest {
        spirit_id: spirit_id.clone(),
        ..GetSpiritRequest::default()
    };
    let spirit = eventually("the database is reached again", async || {
        first.spirits().get_spirit(request.clone()).await.ok()
    })
    .await;
    let last_change = spirit.into_inner().spirit.unwrap().last_change;
    last.set(last_change).unwrap();

    let all = ListEventsRequest {
        order: EventOrder::Sequence.into(),
        filter: Some(EventFilter {
            include_deleted: true,
            ..EventFilter::default()
        }),
        ..list(&spirit_id)
    };
    let left = pages(&mut first.events(), all).await.concat();
    let mut purged = HashSet::new();
    for received in watchers.join_all().await {
        assert_eq!(received.len(), usize::try_from(last_change).unwrap());
        purged = assert_complete(&received, &events, &left);
    }
    assert_forgotten(&first, &spirit_id, &purged).await;
    let (deadlocks,): (i64,) =
        sqlx::query_as("select deadlocks from pg_stat_database where datname = current_database()")
            .fetch_one(&mut first.database.connect().await)
            .await
            .unwrap();
    assert_eq!(deadlocks, 0);
}
