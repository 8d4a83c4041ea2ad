//! Pure types and rules: what an event, a spirit, a filter, a cursor is and which values they take.
//!
//! Knows nothing of the wire, the database or the runtime. Values of these types have passed the
//! rules of the contract; nothing further in re-checks them. Start at [`event`] for the nouns, at
//! [`admission`] for what happens to a create, at [`cursor`] for positions.

pub mod access;
pub mod admission;
pub mod cursor;
pub mod dedupe;
pub mod edit;
pub mod event;
pub mod filter;
pub mod ids;
pub mod invalid;
pub mod key;
pub mod limits;
pub mod meta;
pub mod refusal;
pub mod spirit;

use chrono::{DateTime, Utc};

/// A point in time, always in whole microseconds.
pub type Time = DateTime<Utc>;
