//! Distributed tables: distributing, migrating and restarting. On PostgreSQL without Citus these tests are skipped;
//! `script/citus-test` runs them on a cluster.

pub mod distribute;
pub mod migrations;
pub mod start;

/// Returns the statement that distributes a table by this column, beside the table of spirits.
fn distribute_statement(table: &str, column: &str) -> String {
    let beside = if table == "spirits" { "none" } else { "spirits" };
    format!("select create_distributed_table('{table}', '{column}', colocate_with := '{beside}')")
}
