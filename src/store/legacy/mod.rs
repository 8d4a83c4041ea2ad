//! Moves spirits and events from the database of the Python backend, keeping their ids, times and soft deletes.
//!
//! [`LegacyDatabase`] reads the other database. [`EventMover`] stores spirits and events in that of the service, under the
//! locks of the spirits, so servers may run meanwhile. The caller converts the rows in between. Events that are stored
//! already are passed over, so a move that was interrupted can be repeated.

mod mover;
mod source;
pub(super) mod statements;

pub use mover::{EventMover, Moved, MovedSpirit, SpiritState};
pub use source::{LegacyDatabase, LegacyError, LegacyEvent, LegacySpirit};
