//! Access to PostgreSQL: connections, transactions, rows, errors, migrations, and the standby.
//!
//! Contains no business logic and does not import the other parts of the store. Start with [`pool`], which runs
//! the statements of reads and edits, and [`session`], which opens connections with their settings.

pub(super) mod backfill;
pub(super) mod cancel;
mod encoding;
pub(super) mod error;
pub(super) mod fair_semaphore;
mod lease;
pub(super) mod metrics;
pub(super) mod migrate;
pub(super) mod pool;
pub(super) mod pooler_check;
pub(super) mod rows;
pub(super) mod session;
pub(super) mod sharding;
pub(super) mod spans;
pub(super) mod standby;
pub(super) mod startup_error;
pub(super) mod transaction;
mod turns;
