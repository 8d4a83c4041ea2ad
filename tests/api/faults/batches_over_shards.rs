//! Atomic batches whose spirits are of several shards, and those of many busy spirits: all of their events are stored or
//! none, and they end however many others race them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use elephantasm_events::domain::ids::{SpiritId, parse_uuid};
use elephantasm_events::domain::shard::ShardMap;
use elephantasm_events::grpc::pb::event_service_client::EventServiceClient;
use elephantasm_events::grpc::pb::{BatchCreateEventsRequest, BatchMode, CreateEventRequest};
use elephantasm_events::store::Sharding;
use sqlx::PgConnection;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::transport::Channel;

use crate::support::builders::event;
use crate::support::cluster::Cluster;
use crate::support::harness::{PATIENCE, Settings, TestServer, eventually};

const SHARDS: u32 = 8;

/// Divides the spirits into shards, unless the tests run with shards anyway.
fn with_shards(settings: &mut Settings) {
    if settings.store.sharding == Sharding::None {
        settings.store.sharding = Sharding::Named(SHARDS);
    }
}

/// Creates spirits of different shards.
async fn spirits_of_shards<const N: usize>(server: &TestServer) -> [String; N] {
    let shards = ShardMap::uniform(SHARDS);
    let mut spirits: HashMap<usize, String> = HashMap::new();
    while spirits.len() < N {
        let spirit_id = server.spirit().await;
        let id = SpiritId(parse_uuid(&spirit_id).unwrap());
        spirits.entry(shards.shard_of(id)).or_insert(spirit_id);
    }
    let spirits: Vec<String> = spirits.into_values().collect();
    spirits.try_into().unwrap()
}

/// Creates an event of each spirit, with the same content, all or none. Returns whether they are acknowledged.
async fn create_batch(client: &mut EventServiceClient<Channel>, spirits: &[String], content: &str) -> bool {
    let requests = spirits.iter().map(|spirit_id| CreateEventRequest {
        content: Some(content.to_owned()),
        ..event(spirit_id)
    });
    let batch = BatchCreateEventsRequest {
        requests: requests.collect(),
        mode: BatchMode::Atomic.into(),
    };
    let created = timeout(PATIENCE, client.batch_create_events(batch)).await;
    created.expect("a batch is answered in time").is_ok()
}

/// The number of stored events of each content, after a check that the sequences of each spirit have no gap.
async fn stored(connection: &mut PgConnection) -> HashMap<String, i64> {
    let (gaps,): (i64,) = sqlx::query_as(
        "select count(*)
         from (select max(sequence) - count(*) as gaps from events group by spirit_id) as spirits
         where gaps <> 0",
    )
    .fetch_one(&mut *connection)
    .await
    .unwrap();
    assert_eq!(gaps, 0, "spirits whose sequences have a gap");
    let rows: Vec<(String, i64)> = sqlx::query_as("select content, count(*) from events group by content")
        .fetch_all(connection)
        .await
        .unwrap();
    rows.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn atomic_batches_over_several_shards_are_stored_as_a_whole_or_not_at_all_after_kill_9() {
    const CALLERS: usize = 8;
    let mut cluster = Cluster::start(&[]).await;
    let server = TestServer::start_on(Arc::clone(&cluster.database), with_shards).await;
    let spirits: [String; 4] = spirits_of_shards(&server).await;
    let (acknowledged, is_done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let (mut client, mut spirits) = (server.events(), spirits.clone());
        spirits.rotate_left(caller % 4);
        let (count, is_done) = (Arc::clone(&acknowledged), Arc::clone(&is_done));
        callers.spawn(async move {
            let mut sent: Vec<(String, bool)> = Vec::new();
            while !is_done.load(Ordering::Relaxed) {
                let content = format!("{caller}-{}", sent.len());
                let is_acknowledged = create_batch(&mut client, &spirits, &content).await;
                count.fetch_add(usize::from(is_acknowledged), Ordering::Relaxed);
                sent.push((content, is_acknowledged));
            }
            sent
        });
    }
    for _ in 0..2 {
        let before = acknowledged.load(Ordering::Relaxed);
        eventually("batches are acknowledged", async || {
            (acknowledged.load(Ordering::Relaxed) >= before + 50).then_some(())
        })
        .await;
        cluster.kill().await;
        cluster.run().await;
    }
    is_done.store(true, Ordering::Relaxed);
    let sent: Vec<(String, bool)> = callers.join_all().await.into_iter().flatten().collect();
    server.stop().await.unwrap();
    let stored = stored(&mut cluster.database.connect().await).await;
    for (content, is_acknowledged) in sent {
        match stored.get(&content) {
            Some(events) => assert_eq!(*events, 4, "of batch {content}"),
            None => assert!(!is_acknowledged, "the acknowledged batch {content} is lost"),
        }
    }
}

/// Creates batches of the spirits in different orders, and single events of each spirit meanwhile, through two servers.
async fn race(set: fn(&mut Settings)) {
    const BATCHES: usize = 40;
    const CALLERS: usize = 12;
    let server = TestServer::start_with(set).await;
    let second_server = TestServer::start_on(Arc::clone(&server.database), set).await;
    let spirits: [String; 8] = spirits_of_shards(&server).await;
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let chosen = [&server, &second_server][caller % 2];
        let (mut client, mut spirits) = (chosen.events(), spirits.to_vec());
        // Pairs, also in the opposite order, all spirits, and single ones.
        match caller % 6 {
            0 | 1 => spirits.truncate(2),
            2 | 3 => spirits.rotate_left(caller % 8),
            _ => spirits.drain(..caller % 8).for_each(drop),
        }
        if caller % 2 == 0 {
            spirits.reverse();
        }
        callers.spawn(async move {
            for number in 0..BATCHES {
                let content = format!("{caller}-{number}");
                assert!(create_batch(&mut client, &spirits, &content).await, "{content}");
            }
            spirits.len()
        });
    }
    let sizes = callers.join_all().await;
    server.stop().await.unwrap();
    let stored = stored(&mut second_server.database.connect().await).await;
    assert_eq!(stored.len(), BATCHES * CALLERS);
    let events: i64 = stored.values().sum();
    assert_eq!(
        usize::try_from(events).unwrap(),
        sizes.into_iter().sum::<usize>() * BATCHES
    );
    second_server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_atomic_batches_of_the_same_spirits_in_different_orders_all_end() {
    race(|_| {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_atomic_batches_of_the_same_shards_in_different_orders_all_end() {
    race(with_shards).await;
}
