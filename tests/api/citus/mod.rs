//! Distributed tables: distributing, migrating and restarting. On PostgreSQL without Citus these tests are skipped;
//! `script/citus-test` runs them on a cluster.

pub mod distribute;
pub mod migrations;
