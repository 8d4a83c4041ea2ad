//! The service behind PgBouncer.

pub mod modes;
pub mod under_load;
