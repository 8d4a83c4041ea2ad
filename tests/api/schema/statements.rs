//! Every statement can be prepared on the migrated schema and returns the columns that its row type reads.

use elephantasm_events::store;
use sqlx::{Column as _, Executor as _, SqlSafeStr as _, Statement as _, TypeInfo as _};

use crate::support::harness::TestServer;

const EVENT: &str = "id UUID, spirit_id UUID, sequence INT8, event_type TEXT, meta_summary TEXT, \
    occurred_at TIMESTAMPTZ, session_id TEXT, role TEXT, author TEXT, source_uri TEXT, dedupe_key TEXT, \
    importance_score FLOAT8, revision INT8, deleted_at TIMESTAMPTZ, created_at TIMESTAMPTZ, \
    updated_at TIMESTAMPTZ, content TEXT, meta TEXT";
const SPIRIT: &str = "id UUID, name TEXT, description TEXT, meta TEXT, last_sequence INT8, last_change INT8, \
    retention_max_age INT8, retention_deleted_max_age INT8, retention_history_max_age INT8, revision INT8, deleted_at TIMESTAMPTZ, created_at TIMESTAMPTZ, updated_at TIMESTAMPTZ";

const SESSION: &str = "spirit_id UUID, session_id TEXT, active_minute TIMESTAMPTZ, title TEXT, owner TEXT, meta TEXT, \
    revision INT8, updated_at TIMESTAMPTZ, event_count INT8, first_occurred_at TIMESTAMPTZ, \
    last_occurred_at TIMESTAMPTZ, last_sequence INT8, found INT8";
const FILTERED_SESSION: &str = const_format::concatcp!(
    SESSION,
    ", scanned INT8, end_session_id TEXT, end_active_minute TIMESTAMPTZ"
);
const CHANGE: &str = "change INT8, spirit_id UUID, kind TEXT, event_ids UUID[], sequences INT8[], fields TEXT[], \
    has_previous BOOL, meta_summary TEXT, importance_score FLOAT8, meta TEXT, role TEXT, author TEXT, is_deleted BOOL, \
    deleted_at TIMESTAMPTZ, revision INT8, changed_at TIMESTAMPTZ, changed_by TEXT";
const ADVANCED: &str =
    "id UUID, base INT8, now TIMESTAMPTZ, activity_epoch INT8, server_started_at TIMESTAMPTZ";

const REMOVED: &str = "id UUID, sequence INT8, session_id TEXT, occurred_at TIMESTAMPTZ";

/// Columns by prefix of the statement's name; the first matching prefix counts.
const COLUMNS: [(&str, &str); 68] = [
    ("sharded/spirit_of_event/", "spirit_id UUID"),
    ("sharded/times", "now TIMESTAMPTZ, deleted_at TIMESTAMPTZ"),
    ("sharded/draw", "last_change INT8"),
    (
        "sharded/update_events",
        "ordinal INT8, meta TEXT, revision INT8, updated_at TIMESTAMPTZ, id UUID, sequence INT8, fields TEXT, \
         previous TEXT, changed_by TEXT",
    ),
    ("sharded/change_deletion", "{event}"),
    ("sharded/delete/", "id UUID, sequence INT8"),
    ("sharded/restore_events", REMOVED),
    ("sharded/purge/events", REMOVED),
    (
        "list_purges/",
        "purge_id UUID, spirit_id UUID, selection TEXT, reason TEXT, requested_by TEXT, started_at TIMESTAMPTZ, \
         finished_at TIMESTAMPTZ, purged_count INT8, lowest_sequence INT8, highest_sequence INT8",
    ),
    (
        "purge/walk/",
        "walked INT8, end_sequence INT8, end_deleted_at TIMESTAMPTZ, id UUID, sequence INT8, session_id TEXT, \
         deleted_at TIMESTAMPTZ, bytes INT4, entries INT8, entry_bytes INT8",
    ),
    (
        "purge/walk_owner",
        "walked INT8, last_session_id TEXT, session_ids TEXT[]",
    ),
    ("purge/start", "last_sequence INT8"),
    ("purge/lock", "is_deleted BOOL, last_sequence INT8"),
    (
        "purge/events",
        "count INT8, lowest INT8, highest INT8, session_ids TEXT[], occurred_at TIMESTAMPTZ[]",
    ),
    ("purge/walk_empty_sessions", "walked INT8, last_session_id TEXT"),
    ("purge/walk_changes", "last_change INT8"),
    ("purge/remove_spirit", "id UUID"),
    ("purge/retention/spirits", "id UUID"),
    (
        "purge/retention/bounds",
        "is_alone BOOL, last_sequence INT8, created_until TIMESTAMPTZ, deleted_until TIMESTAMPTZ, \
         changed_until TIMESTAMPTZ, is_scan_due BOOL",
    ),
    ("list_event_changes", "{change}, found INT8"),
    ("list_events", "{event}, value_bytes INT4, content_bytes INT4"),
    ("check_json_path", "printed TEXT"),
    ("long_values/", "{event}, content_bytes INT4"),
    ("get_event_cut", "{event}, content_bytes INT4"),
    ("get_event", "{event}"),
    (
        "update_events",
        "ordinal INT8, meta TEXT, revision INT8, updated_at TIMESTAMPTZ",
    ),
    ("count_events/", "count INT8"),
    ("nth_from_end", "occurred_at TIMESTAMPTZ, sequence INT8"),
    ("list_sessions_filtered", FILTERED_SESSION),
    ("list_sessions", SESSION),
    ("get_session", SESSION),
    (
        "update_session",
        "meta TEXT, revision INT8, updated_at TIMESTAMPTZ",
    ),
    ("delete/lock", "last_sequence INT8"),
    ("delete/events/", "count INT8, max TIMESTAMPTZ"),
    ("delete/event", "{event}"),
    ("delete/restore_events", "count INT8"),
    ("delete/restore_event", "{event}"),
    ("delete/count/", "count INT8"),
    ("delete/lower_active_minutes", ""),
    ("create_spirit", "{spirit}"),
    ("get_spirit", "{spirit}"),
    ("list_spirits/", "{spirit}, found INT8"),
    ("update_spirit", "{spirit}"),
    ("count_spirits", "count INT8"),
    ("last_sequence", "last_sequence INT8"),
    ("keys/live", "prefix TEXT"),
    ("keys/any_exists", "any_exists BOOL"),
    (
        "keys/",
        "prefix TEXT, secret_sha256 BYTEA, name TEXT, role TEXT, spirit_ids UUID[], expires_at TIMESTAMPTZ, \
         revoked_at TIMESTAMPTZ, created_at TIMESTAMPTZ, is_live BOOL",
    ),
    ("ingest/fast_path", ADVANCED),
    ("ingest/advance_free", ADVANCED),
    ("migrate/spirits_without_sessions", "id UUID"),
    ("migrate/is_incomplete", "exists BOOL"),
    ("migrate/versions", "version INT8, checksum BYTEA"),
    (
        "standby/primary",
        "reached INT8, system_identifier INT8, timeline INT8, database INT8",
    ),
    (
        "standby/standby",
        "is_standby BOOL, replayed INT8, system_identifier INT8, timeline INT8, database INT8",
    ),
    ("live/notify", "set_config TEXT, pg_notify VOID"),
    (
        "live/poll",
        "id UUID, last_change INT8, last_sequence INT8, is_deleted BOOL",
    ),
    ("live/changes", "{change}, spirit_last_change INT8"),
    ("live/change_bounds", "last_change INT8, oldest_change INT8"),
    (
        "live/",
        "{event}, value_bytes INT4, content_bytes INT4, spirit_last_sequence INT8, spirit_is_deleted BOOL, bound INT8",
    ),
    ("move/spirit", "id UUID"),
    ("move/has_purges", "exists BOOL"),
    ("move/stored_events", "id UUID"),
    ("ingest/lock", "id UUID"),
    ("ingest/wait", "id UUID"),
    (
        "ingest/spirits",
        "id UUID, is_deleted BOOL, last_sequence INT8, now TIMESTAMPTZ, activity_epoch INT8, \
         server_started_at TIMESTAMPTZ",
    ),
    (
        "ingest/dedupe_keys",
        "spirit_id UUID, dedupe_key TEXT, id UUID, sequence INT8, event_type TEXT, session_id TEXT, \
         source_uri TEXT, occurred_at TIMESTAMPTZ, content_sha256 BYTEA",
    ),
    (
        "ingest/session_last_sequences",
        "spirit_id UUID, session_id TEXT, sequence INT8",
    ),
];

/// The columns of a statement. One of a distributed database has those of the statement that it replaces, if it is not
/// listed itself.
fn expected(name: &str) -> String {
    let replaced = name.strip_prefix("sharded/").unwrap_or(name);
    let find = |name: &str| COLUMNS.iter().find(|(prefix, _)| name.starts_with(prefix));
    find(name)
        .or_else(|| find(replaced))
        .map_or("", |(_, columns)| columns)
        .replace("{change}", CHANGE)
        .replace("{event}", EVENT)
        .replace("{spirit}", SPIRIT)
}

#[tokio::test]
async fn every_statement_can_be_prepared_and_returns_the_columns_that_its_rows_read() {
    let server = TestServer::start().await;
    let mut connection = server.database.connect().await;
    for (name, sql) in store::STATEMENTS {
        let prepared = connection
            .prepare((*sql).into_sql_str())
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let columns = prepared
            .columns()
            .iter()
            .map(|column| format!("{} {}", column.name(), column.type_info().name()));
        assert_eq!(columns.collect::<Vec<_>>().join(", "), expected(name), "{name}");
    }
    for (prefix, _) in COLUMNS {
        assert!(
            store::STATEMENTS.iter().any(|(name, _)| name.starts_with(prefix)),
            "no statement starts with {prefix}"
        );
    }
}

#[test]
fn statement_names_are_unique() {
    let mut names: Vec<&str> = store::STATEMENTS.iter().map(|(name, _)| *name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}
