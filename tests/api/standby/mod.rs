//! Reads from a streaming standby.

pub mod faults;
pub mod reads;
