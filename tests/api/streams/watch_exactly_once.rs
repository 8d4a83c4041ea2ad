//! Every watcher receives every acknowledged event exactly once and in order, under concurrent writers and
//! reconnects.

use std::sync::Arc;

use elephantasm_events::grpc::pb::BatchCreateEventsRequest;
use elephantasm_events::grpc::pb::CreateEventRequest;
use elephantasm_events::grpc::pb::batch_create_events_result::Result as BatchItem;
use elephantasm_events::grpc::pb::ingest_events_response::Result as IngestItem;
use tokio::task::JoinSet;

use crate::streams::ingest_events::Ingest;
use crate::support::builders::{create, event, event_at};
use crate::support::harness::TestServer;
use crate::support::live::{Item, Rng, after, watch};

const WRITERS: usize = 4;
const WATCHERS: usize = 4;
/// Writes (unary calls, batches or streams) of each writer.
const ROUNDS: usize = 40;
/// Content of the last event.
const LAST: &str = "last";

/// Sequence and id of an event.
type EventKey = (i64, String);

fn random_event(rng: &mut Rng, spirit_id: &str) -> CreateEventRequest {
    let (session, seconds) = (rng.below(20).to_string(), rng.below(2_000_000_000));
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
                for n in 0..10 {
                    stream.send(n, random_event(&mut rng, spirit_id)).await;
                }
                for answer in stream.finish().await {
                    let Some(IngestItem::Receipt(receipt)) = answer.result else {
                        panic!("an item was rejected: {answer:?}")
                    };
                    acknowledged.push((receipt.sequence, receipt.event_id));
                }
            }
            _ => {
                let created = create(&mut server.events(), random_event(&mut rng, spirit_id)).await;
                acknowledged.push((created.sequence, created.id));
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
    stored.map(|event| (event.sequence, event.id)).collect()
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
            received.push((event.sequence, event.id));
            if is_last {
                return received;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reconnecting_watchers_receive_every_event_of_many_writers_exactly_once_in_order() {
    let first = Arc::new(TestServer::start().await);
    let second = Arc::new(TestServer::start_on(first.database.clone(), |_| {}).await);
    let spirit_id = first.spirit().await;
    let servers = [first, second];

    let mut watchers = JoinSet::new();
    for _ in 0..WATCHERS {
        watchers.spawn(watch_in_short_streams(servers.clone(), spirit_id.clone()));
    }
    let mut writers = JoinSet::new();
    for n in 0..WRITERS {
        let (server, spirit_id) = (Arc::clone(&servers[n % 2]), spirit_id.clone());
        writers.spawn(async move { write_events(&server, &spirit_id).await });
    }
    let mut acknowledged = writers.join_all().await.concat();
    let last = CreateEventRequest {
        content: Some(LAST.to_owned()),
        ..event(&spirit_id)
    };
    let last = create(&mut servers[0].events(), last).await;
    acknowledged.push((last.sequence, last.id));
    acknowledged.sort();

    for received in watchers.join_all().await {
        assert!(
            received == acknowledged,
            "a watcher received {received:?} of {acknowledged:?}"
        );
    }
}
