//! Schema and statements suit a database that is sharded by spirit, as by Citus or hash partitions: tables and unique keys
//! contain the spirit, a statement that names one spirit reads one shard, and statements avoid the forms that Citus cannot
//! send to a shard as they are.
//!
//! The lists below name the statements that do not. Each test compares its list with what it finds.

mod partitions;
mod schema;
mod texts;

/// Statements over the spirits of the whole database.
const OVER_ALL_SPIRITS: [&str; 5] = [
    "list_purges/of_spirits",
    "list_spirits/named",
    "list_spirits/newest",
    "migrate/spirits_without_sessions",
    "purge/retention/spirits",
];

/// Statements that read all partitions although they name one spirit. The fast path of a flush has the spirits that it could
/// lock from a subquery, and look-ups of several keys take the spirit of each from an array.
const UNROUTED: [&str; 8] = [
    "ingest/advance_free",
    "ingest/dedupe_keys",
    "ingest/fast_path",
    "ingest/fast_path_activating",
    "ingest/fast_path_waiting",
    "ingest/fast_path_waiting_activating",
    "ingest/session_last_sequences",
    "update_events",
];

/// Statements that change rows in `with`, to save round trips while a spirit is locked. Citus runs each part as a
/// distributed statement of its own and commits in two phases.
const MODIFYING_IN_WITH: [&str; 13] = [
    "delete/event",
    "delete/events/occurred_at",
    "delete/events/session",
    "delete/events/spirit",
    "delete/restore_event",
    "delete/restore_events",
    "ingest/fast_path",
    "ingest/fast_path_activating",
    "ingest/fast_path_waiting",
    "ingest/fast_path_waiting_activating",
    "migrate/record_sessions",
    "purge/events",
    "update_events",
];

/// Statements that seek a number of rows for each element of an array.
const LIMITED_BY_ELEMENT: [&str; 3] = [
    "ingest/dedupe_keys",
    "ingest/session_last_sequences",
    "purge/walk/sessions",
];
