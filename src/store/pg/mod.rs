//! Access to PostgreSQL: connections, transactions, rows, errors, schema, and the standby.
//!
//! Holds no logic of the service and does not import the other parts of the store. Start at [`pool`], which
//! runs every statement of reads and edits, and at [`session`], which says how a connection gets its settings.

pub(super) mod cancel;
pub(super) mod error;
pub(super) mod metrics;
pub(super) mod migrate;
pub(super) mod pool;
pub(super) mod pooler_check;
pub(super) mod rows;
pub(super) mod session;
pub(super) mod spans;
pub(super) mod standby;
pub(super) mod startup_error;
