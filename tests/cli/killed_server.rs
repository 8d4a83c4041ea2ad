//! The server process is killed under load: after the next start every acknowledged event is stored, and a retry
//! with the same dedupe key finds the event or stores it, once.

use std::collections::HashMap;

use elephantasm_events::grpc::pb::batch_create_events_result::Result as BatchItem;
use elephantasm_events::grpc::pb::event_service_client::EventServiceClient;
use elephantasm_events::grpc::pb::{
    BatchCreateEventsRequest, BatchMode, CreateEventRequest, CreateOutcome, OnDuplicate,
};
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use crate::harness::{Server, TestDir, event};

const CALLERS: usize = 8;
/// Events of a batch.
const BATCH: usize = 5;
/// Events acknowledged before the kill.
const BEFORE_THE_KILL: usize = 60;

/// Dedupe key, id and sequence of an acknowledged event.
type Acknowledged = (String, String, i64);

fn keyed(spirit_id: &str, key: &str) -> CreateEventRequest {
    CreateEventRequest {
        dedupe_key: Some(key.to_owned()),
        on_duplicate: OnDuplicate::ReturnExisting.into(),
        ..event(spirit_id)
    }
}

/// Creates an event for each key, in an atomic batch if there are several; returns the events and their outcomes.
async fn store(
    events: &mut EventServiceClient<Channel>,
    spirit_id: &str,
    keys: &[String],
) -> Result<Vec<(Acknowledged, CreateOutcome)>, Status> {
    let created = if let [key] = keys {
        let response = events.create_event(keyed(spirit_id, key)).await;
        vec![response?.into_inner()]
    } else {
        let request = BatchCreateEventsRequest {
            requests: keys.iter().map(|key| keyed(spirit_id, key)).collect(),
            mode: BatchMode::Atomic.into(),
        };
        let response = events.batch_create_events(request).await;
        let results = response.map(Response::into_inner)?.results.into_iter();
        results
            .map(|result| match result.result.unwrap() {
                BatchItem::Created(created) => created,
                BatchItem::Error(error) => panic!("refused: {error:?}"),
            })
            .collect()
    };
    let known = keys.iter().zip(created).map(|(key, created)| {
        let outcome = created.outcome();
        let event = created.event.unwrap();
        ((key.clone(), event.id, event.sequence), outcome)
    });
    Ok(known.collect())
}

/// Creates single events and batches in turn until the server is gone; returns the keys of the unanswered call.
async fn create_until_killed(
    mut events: EventServiceClient<Channel>,
    spirit_id: String,
    caller: usize,
    acknowledge: UnboundedSender<Acknowledged>,
) -> Vec<String> {
    for round in 0.. {
        let size = if round % 2 == 0 { 1 } else { BATCH };
        let keys: Vec<String> = (0..size).map(|n| format!("{caller}-{round}-{n}")).collect();
        match store(&mut events, &spirit_id, &keys).await {
            Ok(known) => known
                .into_iter()
                .for_each(|(known, _)| acknowledge.send(known).unwrap()),
            Err(status) => {
                // An error of the connection or of the service, in each case one that clients may retry.
                let retryable = [Code::Unavailable, Code::Unknown, Code::Cancelled];
                assert!(retryable.contains(&status.code()), "{status:?}");
                return keys;
            }
        }
    }
    unreachable!()
}

#[tokio::test]
async fn a_retry_after_kill_9_of_the_server_finds_or_stores_each_event_once() {
    let test_dir = TestDir::new();
    let server = Server::start(&test_dir).await;
    let spirit_id = server.spirit("Ada").await;
    let (acknowledge, mut acknowledged) = mpsc::unbounded_channel();
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let (events, spirit_id) = (server.events().await, spirit_id.clone());
        callers.spawn(create_until_killed(
            events,
            spirit_id,
            caller,
            acknowledge.clone(),
        ));
    }
    drop(acknowledge);
    let mut known: HashMap<String, (String, i64)> = HashMap::new();
    let mut record = |(key, id, sequence): Acknowledged| known.insert(key, (id, sequence));
    for _ in 0..BEFORE_THE_KILL {
        record(acknowledged.recv().await.unwrap());
    }
    server.kill().await;
    while let Some(event) = acknowledged.recv().await {
        record(event);
    }
    let unanswered = callers.join_all().await;
    assert_eq!(unanswered.len(), CALLERS);

    let server = Server::start(&test_dir).await;
    let mut events = server.events().await;
    for keys in unanswered {
        let stored = store(&mut events, &spirit_id, &keys).await.unwrap();
        let (_, first) = stored[0];
        for ((key, id, sequence), outcome) in stored {
            assert_eq!(outcome, first, "the batch {keys:?} was stored in part");
            assert_ne!(outcome, CreateOutcome::DuplicateDifferent);
            known.insert(key, (id, sequence));
        }
    }
    let rows: Vec<(String, String, i64)> =
        sqlx::query_as("select dedupe_key, id::text, sequence from events order by sequence")
            .fetch_all(&mut test_dir.connect().await)
            .await
            .unwrap();
    let sequences = rows.iter().map(|(_, _, sequence)| *sequence);
    assert!(
        sequences.eq(1..=i64::try_from(rows.len()).unwrap()),
        "the sequences have a gap"
    );
    let stored: HashMap<String, (String, i64)> = rows
        .into_iter()
        .map(|(key, id, sequence)| (key, (id, sequence)))
        .collect();
    assert_eq!(stored, known, "each event is stored once, as acknowledged");
    server.stop().await;
}
