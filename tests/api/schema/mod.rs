//! Migrations, statements and their query plans.

pub mod backfill;
pub mod encoding;
pub mod migrations;
pub mod plans;
pub mod sharding;
pub mod statements;
