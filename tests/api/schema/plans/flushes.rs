//! Statements of flushes.

use super::reads::{LOOKUP, Read, SCAN, ids, read};

/// The statements of a flush.
pub fn flushes() -> Vec<Read> {
    let key_owners = format!("array_fill('{:032}'::uuid, array[200])", 8);
    let keys = format!("'{{{}}}'", vec!["key 57"; 200].join(","));
    let gains = |epochs| {
        [
            ids(2),
            "'{1,0}'".to_owned(),
            "true".to_owned(),
            epochs,
            "now()".to_owned(),
        ]
    };
    let session = [ids(1), "'{s}'".to_owned(), "array[now()]".to_owned()];
    let insert = |statement: &str, before: &[String], after: &[String]| Read {
        statement: statement.to_owned(),
        arguments: [before, &new_event(), after].concat(),
        rule: LOOKUP,
    };
    vec![
        read(SCAN, "ingest/dedupe_keys", [&key_owners, &keys]),
        read(SCAN, "ingest/session_last_sequences", [&key_owners, &keys]),
        insert("ingest/fast_path", &gains("'{1,NULL}'".to_owned()), &[]),
        insert(
            "ingest/fast_path_activating",
            &gains("'{NULL,NULL}'".to_owned()),
            &session,
        ),
        insert("ingest/fast_path_waiting", &gains("'{1,NULL}'".to_owned()), &[]),
        insert(
            "ingest/fast_path_waiting_activating",
            &gains("'{NULL,NULL}'".to_owned()),
            &session,
        ),
        insert("ingest/insert", &[ids(2)], &[]),
        read(
            LOOKUP,
            "ingest/activate_sessions",
            [&ids(1), "'{s}'", "array[now()]"],
        ),
        read(LOOKUP, "ingest/lock", [&ids(20)]),
        read(LOOKUP, "ingest/wait", [&ids(1)]),
        read(LOOKUP, "ingest/wait_for_all", [&ids(20)]),
        read(LOOKUP, "ingest/spirits", [&ids(20)]),
        read(LOOKUP, "ingest/advance", [&ids(2), "'{1,2}'"]),
        read(LOOKUP, "ingest/advance_free", [&ids(2), "'{1,2}'", "true"]),
    ]
}

/// Arguments of the columns of one new event.
pub fn new_event() -> Vec<String> {
    let (id, null) = (ids(1), "'{NULL}'");
    let columns = [
        &id,
        &id,
        "'{1}'",
        "'{x}'",
        null,
        "'{x}'",
        "array[now()]",
        "'{s}'",
        null,
        null,
        "array['{}']",
        null,
        null,
        null,
    ];
    columns.map(str::to_owned).into()
}
