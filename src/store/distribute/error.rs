//! Errors of the distribution of tables.

use crate::store::pg::error::chain;
use crate::store::pg::startup_error::StartupError;

/// The reason why tables were not distributed.
#[derive(Debug, thiserror::Error)]
pub enum DistributeError {
    /// A standby, or a primary set to read-only.
    #[error("the database is read-only: distribute on the primary of the coordinator")]
    ReadOnly,
    /// Instances use the database. They would go on with statements that Citus does not support.
    #[error(
        "{0} connections of elephantasm-events to this database are open: stop all instances and commands that use it, \
         and try again"
    )]
    InUse(i64),
    #[error(
        "the database has no extension citus: on the coordinator and on each worker set \
         shared_preload_libraries = 'citus', create this database and run `create extension citus` in it, then add each \
         worker on the coordinator with `select citus_add_node('host', 5432)`"
    )]
    NoExtension,
    #[error("this node is a worker: connect to the coordinator")]
    NotCoordinator,
    #[error("the cluster has no node for shards: add workers with `select citus_add_node('host', 5432)`")]
    NoWorkers,
    #[error("the coordinator cannot run statements on the worker {node}: {message}")]
    WorkerFailed { node: String, message: String },
    /// Commits over several shards need prepared transactions.
    #[error(
        "max_prepared_transactions is 0 on {0}: set it on each node to at least max_connections, and restart the node"
    )]
    NoPreparedTransactions(String),
    /// The tables have another number of shards, which only Citus can change.
    #[error(
        "the tables have {found} shards, and --shards is {wanted}: leave it out to keep them; to change the number, stop \
         all instances and run `select alter_distributed_table('spirits', shard_count := {wanted}, \
         cascade_to_colocated := true)`, which copies the tables"
    )]
    OtherShards { found: u32, wanted: u32 },
    #[error(
        "the table {0} is distributed, but not by its spirit beside the table spirits: undo that with \
         `select undistribute_table('{0}')`"
    )]
    OtherLayout(String),
    #[error(transparent)]
    NotMigrated(#[from] StartupError),
    /// The database is unavailable or refused an operation.
    #[error("could not distribute the tables: {0}")]
    Failed(String),
}

impl From<sqlx::Error> for DistributeError {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(chain(&error))
    }
}

impl From<sqlx::migrate::MigrateError> for DistributeError {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        Self::NotMigrated(error.into())
    }
}
