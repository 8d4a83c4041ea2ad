//! Every acknowledged event exactly once, in order, to every watcher, whatever happens around it.

use std::sync::Arc;

use elephantasm_events::grpc::pb::BatchCreateEventsRequest;
use elephantasm_events::grpc::pb::CreateEventRequest;
use elephantasm_events::grpc::pb::batch_create_events_result::Result as BatchItem;
use elephantasm_events::grpc::pb::ingest_events_response::Result as IngestItem;
use tokio::task::JoinSet;

use crate::streams::ingest_events::Ingest;
use crate::support::builders::{create, event, event_at};
use crate::support::harness::TestServer;
use crate::support::live::{Dice, Item, after, watch};

const WRITERS: usize = 4;
const WATCHERS: usize = 4;
const ROUNDS: usize = 40;
/// Content of the last event.
const LAST: &str = "last";

/// An event's place and name.
type Seen = (i64, String);

fn random(dice: &mut Dice, spirit_id: &str) -> CreateEventRequest {
    let (session, seconds) = (dice.below(20).to_string(), dice.below(2_000_000_000));
    event_at(spirit_id, &session, i64::try_from(seconds).unwrap())
}

/// Writes in each way at random; returns what was acknowledged.
async fn write(server: &TestServer, spirit_id: &str) -> Vec<Seen> {
    let mut dice = Dice::new();
    let mut acknowledged = Vec::new();
    for _ in 0..ROUNDS {
        match dice.below(4) {
            0 => {
                let requests = (0..5).map(|_| random(&mut dice, spirit_id)).collect();
                acknowledged.extend(batch(server, requests).await);
            }
            1 => {
                let stream = Ingest::open(server).await;
                for n in 0..10 {
                    stream.send(n, random(&mut dice, spirit_id)).await;
                }
                for answer in stream.finish().await {
                    let Some(IngestItem::Receipt(receipt)) = answer.result else {
                        panic!("refused: {answer:?}")
                    };
                    acknowledged.push((receipt.sequence, receipt.event_id));
                }
            }
            _ => {
                let created = create(&mut server.events(), random(&mut dice, spirit_id)).await;
                acknowledged.push((created.sequence, created.id));
            }
        }
    }
    acknowledged
}

async fn batch(server: &TestServer, requests: Vec<CreateEventRequest>) -> Vec<Seen> {
    let request = BatchCreateEventsRequest {
        requests,
        ..BatchCreateEventsRequest::default()
    };
    let response = server.events().batch_create_events(request).await.unwrap();
    let results = response.into_inner().results.into_iter();
    let stored = results.map(|result| match result.result {
        Some(BatchItem::Created(created)) => created.event.unwrap(),
        other => panic!("refused: {other:?}"),
    });
    stored.map(|event| (event.sequence, event.id)).collect()
}

/// Watches to the last event, now here and now there, resuming after what it saw last.
async fn see(servers: [Arc<TestServer>; 2], spirit_id: String) -> Vec<Seen> {
    let mut dice = Dice::new();
    let mut seen: Vec<Seen> = Vec::new();
    let mut place = 0;
    loop {
        let server = &servers[usize::try_from(dice.below(2)).unwrap()];
        let mut watcher = watch(server, after(&spirit_id, place)).await.unwrap();
        for _ in 0..dice.below(40) {
            let (item, at) = watcher.next().await.unwrap().unwrap();
            place = at;
            let Item::Event(event) = item else { continue };
            let is_last = event.content.as_deref() == Some(LAST);
            seen.push((event.sequence, event.id));
            if is_last {
                return seen;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_that_come_and_go_see_every_event_of_many_writers_exactly_once_in_order() {
    let here = Arc::new(TestServer::start().await);
    let there = Arc::new(TestServer::start_on(here.database.clone(), |_| {}).await);
    let spirit_id = here.spirit().await;
    let servers = [here, there];

    let mut watchers = JoinSet::new();
    for _ in 0..WATCHERS {
        watchers.spawn(see(servers.clone(), spirit_id.clone()));
    }
    let mut writers = JoinSet::new();
    for n in 0..WRITERS {
        let (server, spirit_id) = (Arc::clone(&servers[n % 2]), spirit_id.clone());
        writers.spawn(async move { write(&server, &spirit_id).await });
    }
    let mut acknowledged = writers.join_all().await.concat();
    let last = CreateEventRequest {
        content: Some(LAST.to_owned()),
        ..event(&spirit_id)
    };
    let last = create(&mut servers[0].events(), last).await;
    acknowledged.push((last.sequence, last.id));
    acknowledged.sort();

    for seen in watchers.join_all().await {
        assert!(seen == acknowledged, "a watcher saw {seen:?} of {acknowledged:?}");
    }
}
