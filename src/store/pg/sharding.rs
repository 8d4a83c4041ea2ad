//! The distribution of the database: checks at start whether it is as configured, and reads the shards.
//!
//! Without the setting most statements would fail on a distributed database; with it all would be slower than necessary
//! on one that is not.

use super::pool::ConnectionPool;
use super::startup_error::StartupError;
use crate::domain::shard::{SHARDS_MAX, ShardMap};

/// The configured distribution of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharding {
    /// The database is one PostgreSQL.
    None,
    /// The tables are distributed by Citus.
    Citus,
    /// The database is one PostgreSQL, which is used as if it were distributed into this number of shards.
    Named(u32),
}

const HAS_CITUS: &str = "select to_regclass('pg_catalog.pg_dist_shard') is not null";

/// The lowest hash of each shard of the spirits; null if they are not divided by hash. No row if they are not distributed.
const LOWEST_HASHES: &str = "
    select shardminvalue::integer
    from pg_catalog.pg_dist_shard
    where logicalrelid = to_regclass('spirits')";

/// Checks that the database is distributed as configured. Returns its shards, `None` if it is not distributed.
pub(super) async fn check_sharding(
    pool: &ConnectionPool,
    sharding: Sharding,
) -> Result<Option<ShardMap>, StartupError> {
    if let Sharding::Named(shards) = sharding {
        return Ok(Some(ShardMap::uniform(shards)));
    }
    let is_wanted = sharding == Sharding::Citus;
    let (has_citus,): (bool,) = pool.one(sqlx::query_as(HAS_CITUS)).await?;
    if !has_citus {
        if is_wanted {
            let reason = "this database does not have the extension citus";
            return Err(StartupError::NotDistributed(reason));
        }
        return Ok(None);
    }
    let hashes: Vec<(Option<i32>,)> = pool.all(sqlx::query_as(LOWEST_HASHES)).await?;
    match (is_wanted, hashes.is_empty()) {
        (false, true) => Ok(None),
        (false, false) => Err(StartupError::Distributed),
        (true, true) => Err(StartupError::NotDistributed(
            "the tables of this database are not distributed",
        )),
        (true, false) => shards(hashes).map(Some),
    }
}

/// Returns the shards with these lowest hashes.
fn shards(hashes: Vec<(Option<i32>,)>) -> Result<ShardMap, StartupError> {
    let hashes: Option<Vec<i32>> = hashes.into_iter().map(|(hash,)| hash).collect();
    let shards = hashes.and_then(ShardMap::with_lowest_hashes);
    let shards = shards.ok_or_else(|| StartupError::UnusableShards("not by ranges of hashes".to_owned()))?;
    if shards.count() > SHARDS_MAX {
        let reason = format!("into {} shards, more than {SHARDS_MAX}", shards.count());
        return Err(StartupError::UnusableShards(reason));
    }
    Ok(shards)
}
