//! Statements of a distributed database.

use super::flushes::new_event;
use super::load::spirit;
use super::reads::{LOOKUP, Read, SCAN, ids, read, scopes};

pub fn sharded() -> Vec<Read> {
    let keys = format!("'{{{}}}'", vec!["key 57"; 200].join(","));
    let key_owners = format!("array_fill('{:032}'::uuid, array[200])", 8);
    let insert = [vec![ids(1)], new_event(), vec!["now()".to_owned()]].concat();
    let event = format!("'{:032}'", 7);
    let mut reads = vec![
        read(LOOKUP, "sharded/spirit_of_event/single", [&event]),
        read(LOOKUP, "sharded/spirit_of_event/bulk", [&event]),
        read(SCAN, "sharded/ingest/dedupe_keys", [&key_owners, &keys]),
        read(
            SCAN,
            "sharded/ingest/session_last_sequences",
            [&key_owners, "array_fill('long'::text, array[200])"],
        ),
        Read {
            statement: "sharded/ingest/insert".to_owned(),
            arguments: insert,
            rule: LOOKUP,
        },
        read(
            LOOKUP,
            "sharded/ingest/activate_sessions",
            [&ids(1), "'{s}'", "array[now()]"],
        ),
    ];
    reads.extend(changes());
    reads.extend(deletions());
    reads.extend(purges());
    reads
}

/// Edits, and the recording of changes.
fn changes() -> Vec<Read> {
    let owner = spirit(8);
    let (events, none, json) = (ids(1), "'{null}'", "'{\"{}\"}'");
    let edits = [
        &owner, &events, "'{1}'", none, none, json, none, none, "'{role}'", json, none, "now()",
    ];
    let recorded = [
        &owner,
        "'updated'",
        "now()",
        "'{1}'",
        &events,
        "'{1}'",
        "'{role}'",
        json,
        "'{1}'",
        none,
    ];
    vec![
        read(LOOKUP, "sharded/times", [&owner]),
        read(LOOKUP, "sharded/draw", [&owner, "1"]),
        read(LOOKUP, "sharded/draw_lowering", [&owner, "1"]),
        read(LOOKUP, "sharded/draw_deleted", [&owner, "1", "now()"]),
        read(LOOKUP, "sharded/record_each", recorded),
        read(LOOKUP, "sharded/update_events", edits),
    ]
}

/// Deletions and restores.
fn deletions() -> Vec<Read> {
    let (event, owner) = (format!("'{:032}'", 7), spirit(8));
    let fields = [
        &owner, &event, "1", "null", "null", "'{}'", "null", "null", "now()", "now()",
    ];
    let mut reads = vec![
        read(LOOKUP, "sharded/change_deletion", fields),
        read(
            LOOKUP,
            "sharded/restore_events",
            [&owner, "now()", "null", "now()"],
        ),
        read(
            LOOKUP,
            "sharded/restore_events",
            [&owner, "now()", "'long'", "now()"],
        ),
    ];
    for (access, scope) in scopes().into_iter().filter(|(access, _)| *access != "type") {
        let accesses = if access == "spirit" {
            &["spirit", "occurred_at"][..]
        } else {
            &["session"]
        };
        for access in accesses {
            let more = ["3990", "now()"].map(str::to_owned);
            reads.push(Read {
                statement: format!("sharded/delete/{access}"),
                arguments: scope.iter().cloned().chain(more).collect(),
                rule: LOOKUP,
            });
        }
    }
    reads
}

fn purges() -> Vec<Read> {
    let (event, owner) = (format!("'{:032}'", 7), spirit(8));
    let events = ids(3);
    vec![
        read(
            LOOKUP,
            "sharded/list_purges/of_spirits",
            ["null", "now()", &event, "51"],
        ),
        read(
            LOOKUP,
            "sharded/purge/events",
            [&owner, "'{1,2,3}'", "'Ada'", "now()", "'owner 4'"],
        ),
        read(
            LOOKUP,
            "sharded/purge/start",
            [&owner, &event, "'all'", "null", "null"],
        ),
        read(LOOKUP, "sharded/purge/clear_changes", [&owner, &events]),
        read(LOOKUP, "sharded/purge/add", [&owner, &event, "1", "1", "1"]),
    ]
}
