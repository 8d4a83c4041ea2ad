//! Schema and statements suit a database that is sharded by spirit, as by Citus or hash partitions: tables and unique keys
//! contain the spirit, a statement that names one spirit reads one shard, and statements avoid the forms that Citus cannot
//! send to a shard as they are.
//!
//! The lists below name the statements that do not, and those that a distributed database has another form of. Each test
//! compares its list with what it finds.

mod hashes;
mod partitions;
mod schema;
mod texts;

/// Statements over the spirits of the whole database, and those that find the spirit of an event.
const OVER_ALL_SPIRITS: [&str; 7] = [
    "list_spirits/named",
    "list_spirits/newest",
    "migrate/spirits_without_sessions",
    "purge/retention/spirits",
    "sharded/list_purges/of_spirits",
    "sharded/spirit_of_event/bulk",
    "sharded/spirit_of_event/single",
];

/// Statements that are not run on a distributed database. The first have another form there, with the prefix `sharded/` or
/// as several statements; the fast path of a flush and `COPY` are not used, and the last one runs before the tables are
/// distributed.
const REPLACED: [&str; 20] = [
    "delete/event",
    "delete/events/occurred_at",
    "delete/events/session",
    "delete/events/spirit",
    "delete/restore_event",
    "delete/restore_events",
    "ingest/activate_sessions",
    "ingest/dedupe_keys",
    "ingest/insert",
    "ingest/session_last_sequences",
    "list_purges/of_spirits",
    "purge/events",
    "purge/start",
    "update_events",
    "ingest/advance_free",
    "ingest/fast_path",
    "ingest/fast_path_activating",
    "ingest/fast_path_waiting",
    "ingest/fast_path_waiting_activating",
    "migrate/record_sessions",
];

/// Statements that seek a number of rows for each element of an array, and name the spirit in each seek.
const LIMITED_BY_ELEMENT: [&str; 2] = ["purge/walk/sessions", "sharded/ingest/session_last_sequences"];

/// Returns whether a distributed database runs the statement.
fn is_sharded(name: &str) -> bool {
    !REPLACED.contains(&name)
}

#[test]
fn the_replaced_statements_exist() {
    for name in REPLACED {
        let statements = elephantasm_events::store::STATEMENTS;
        assert!(statements.iter().any(|(known, _)| *known == name), "{name}");
    }
}
