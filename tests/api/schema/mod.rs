//! Migrations, statements and their query plans.

pub mod migrations;
pub mod plans;
pub mod statements;
