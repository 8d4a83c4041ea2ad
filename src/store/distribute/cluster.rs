//! Checks of the cluster.

use sqlx::postgres::PgConnection;

use super::DistributeError;
use crate::store::pg::migrate::IS_READ_ONLY;

const HAS_EXTENSION: &str = "select exists (select from pg_extension where extname = 'citus')";

const IS_COORDINATOR: &str = "select citus_is_coordinator()";

/// Counts the nodes that take shards.
const SHARD_NODES: &str = "
    select count(*)
    from pg_dist_node
    where isactive
    and shouldhaveshards
    and noderole = 'primary'";

/// Reads `max_prepared_transactions` on this node and all workers; without success the result is an error message.
const PREPARED_TRANSACTIONS: &str = "
    select 'the coordinator' as node, true as success, current_setting('max_prepared_transactions') as result
    union all
    select nodename || ':' || nodeport, success, result
    from run_command_on_workers('show max_prepared_transactions')";

pub(super) async fn is_read_only(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(IS_READ_ONLY).fetch_one(connection).await
}

pub(super) async fn has_extension(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(HAS_EXTENSION).fetch_one(connection).await
}

/// Checks that this is the coordinator, that all nodes answer and that they allow prepared transactions. Returns the number
/// of nodes that take shards.
pub(super) async fn check_nodes(connection: &mut PgConnection) -> Result<u32, DistributeError> {
    let is_coordinator: bool = sqlx::query_scalar(IS_COORDINATOR)
        .fetch_one(&mut *connection)
        .await?;
    if !is_coordinator {
        return Err(DistributeError::NotCoordinator);
    }
    let nodes: i64 = sqlx::query_scalar(SHARD_NODES)
        .fetch_one(&mut *connection)
        .await?;
    if nodes == 0 {
        return Err(DistributeError::NoWorkers);
    }
    let settings: Vec<(String, bool, String)> = sqlx::query_as(PREPARED_TRANSACTIONS)
        .fetch_all(&mut *connection)
        .await?;
    if let Some((node, _, message)) = settings.iter().find(|(_, success, _)| !success) {
        let (node, message) = (node.clone(), message.clone());
        return Err(DistributeError::WorkerFailed { node, message });
    }
    let without: Vec<&str> = settings
        .iter()
        .filter(|(_, _, value)| value == "0")
        .map(|(node, _, _)| node.as_str())
        .collect();
    if !without.is_empty() {
        return Err(DistributeError::NoPreparedTransactions(without.join(", ")));
    }
    Ok(u32::try_from(nodes).unwrap_or(u32::MAX))
}
