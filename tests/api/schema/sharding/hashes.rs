//! The division of spirits is that of PostgreSQL's hash of their ids.

use elephantasm_events::domain::ids::SpiritId;
use elephantasm_events::domain::shard::{ShardMap, uuid_hash};
use uuid::Uuid;

use crate::support::harness::TestServer;

/// Number of ids of each version.
const IDS: usize = 5_000;

#[tokio::test]
async fn the_hash_of_an_id_is_that_of_postgresql_and_spirits_are_spread_over_all_shards() {
    let server = TestServer::start().await;
    let edges = [Uuid::nil(), Uuid::max()];
    let random = (0..IDS).map(|_| Uuid::new_v4());
    let ordered = (0..IDS).map(|_| Uuid::now_v7());
    let ids: Vec<Uuid> = edges.into_iter().chain(random).chain(ordered).collect();
    let hashes: Vec<(i32,)> = sqlx::query_as("select uuid_hash(id) from unnest($1::uuid[]) as id")
        .bind(&ids)
        .fetch_all(&mut server.database.connect().await)
        .await
        .unwrap();
    let shards = ShardMap::uniform(8);
    let mut spirits = [0; 8];
    for (id, (hash,)) in ids.iter().zip(&hashes) {
        assert_eq!(uuid_hash(SpiritId(*id)), *hash, "{id}");
        spirits[shards.shard_of(SpiritId(*id))] += 1;
    }
    let fewest = 2 * IDS / shards.count() / 2;
    assert!(spirits.iter().all(|count| *count > fewest), "{spirits:?}");
}
