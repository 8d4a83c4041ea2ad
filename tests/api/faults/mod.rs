//! Failures of the database, the network, clients and the server itself.

pub mod batch_shares;
pub mod batches_over_shards;
pub mod broken_rows;
pub mod copy_flushes;
pub mod database_faults;
pub mod database_network;
pub mod database_recovery;
pub mod database_restarts;
pub mod deadlines;
pub mod durability;
pub mod fair_reads;
pub mod flush_faults;
pub mod flush_paths;
pub mod garbage;
pub mod goaway;
pub mod keyless_streams;
pub mod killed_database;
pub mod locks;
pub mod misbehaving_clients;
pub mod panics;
pub mod queue_bounds;
pub mod storm;
