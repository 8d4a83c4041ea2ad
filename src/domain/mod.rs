//! Types and rules without I/O: events, spirits, filters, cursors, access.
//!
//! Does not depend on gRPC, the database or the runtime. A value of these types has been validated and is not
//! checked again. Start at [`event`] for the data, at [`admission`] for the decision about a create, at [`cursor`]
//! for positions.

pub mod access;
pub mod admission;
pub mod change;
pub mod cursor;
pub mod dedupe;
pub mod deletion;
pub mod edit;
pub mod event;
pub mod filter;
pub mod ids;
pub mod invalid;
pub mod json_path;
pub mod key;
pub mod limits;
pub mod meta;
pub mod purge;
pub mod refusal;
pub mod session;
pub mod shard;
pub mod spirit;

use chrono::{DateTime, Utc};

/// A point in time, always in whole microseconds.
pub type Time = DateTime<Utc>;
