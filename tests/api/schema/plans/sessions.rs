//! Statements over sessions, and soft deletes and restores.

use super::load::spirit;
use super::reads::{LOOKUP, PAGE, Read, SCAN, read, scopes};

/// Pages of sessions, first and deep, and one session.
pub fn pages() -> Vec<Read> {
    const FIRST: &str = "'0001-01-01Z'";
    let spirit_id = spirit(7);
    let mut reads = vec![read(SCAN, "get_session", [&spirit_id, "'s-60'"])];
    for (scope, owner) in [("spirit", None), ("owner", Some("'owner 4'"))] {
        for range in ["same_minute", "earlier", "empty"] {
            for (minute, after) in [("'10000-01-01Z'", "''"), ("'2025-01-02 12:00Z'", "'s-5'")] {
                let page = [&spirit_id, minute, after, FIRST, "51", "true"];
                let filter = [
                    owner.unwrap_or("null"),
                    "'s-'",
                    "'t'",
                    "'{}'",
                    FIRST,
                    "'10000-01-01Z'",
                    "10000",
                ];
                reads.push(Read {
                    statement: format!("list_sessions/{scope}/{range}"),
                    arguments: page.into_iter().chain(owner).map(str::to_owned).collect(),
                    rule: PAGE,
                });
                reads.push(Read {
                    statement: format!("list_sessions_filtered/{scope}/{range}"),
                    arguments: page.into_iter().chain(filter).map(str::to_owned).collect(),
                    rule: SCAN,
                });
            }
        }
    }
    reads
}

/// Soft deletes and restores.
pub fn deletions() -> Vec<Read> {
    let (event, owner) = (format!("'{:032}'", 7), spirit(8));
    let now = "now()";
    let fields = [
        &owner, &event, "1", "null", "null", "'{}'", "null", "null", "'{role}'", "'{}'", "null",
    ];
    let mut reads = vec![
        read(LOOKUP, "delete/lock", [&format!("'{{{:032}}}'", 8)]),
        read(LOOKUP, "delete/event", fields),
        read(LOOKUP, "delete/restore_event", fields),
        read(SCAN, "delete/lower_active_minute", [&owner, "'long'"]),
        read(SCAN, "delete/lower_active_minutes", [&owner, now]),
        read(LOOKUP, "delete/restore_events", [&owner, now, "null", "null"]),
        read(LOOKUP, "delete/restore_events", [&owner, now, "'long'", "null"]),
    ];
    for (access, scope) in scopes().into_iter().filter(|(access, _)| *access != "type") {
        for after in ["0", "3990"] {
            let arguments = |more: &[&str]| {
                scope
                    .iter()
                    .cloned()
                    .chain(more.iter().map(|&text| text.to_owned()))
                    .collect()
            };
            if access == "spirit" {
                reads.push(Read {
                    statement: "delete/count/occurred_at".to_owned(),
                    arguments: arguments(&["0", "100001"]),
                    rule: SCAN,
                });
                reads.push(Read {
                    statement: "delete/events/occurred_at".to_owned(),
                    arguments: arguments(&["0", "null"]),
                    rule: LOOKUP,
                });
            }
            reads.push(Read {
                statement: format!("delete/count/{access}"),
                arguments: arguments(&[after, "100001"]),
                rule: SCAN,
            });
            reads.push(Read {
                statement: format!("delete/events/{access}"),
                arguments: arguments(&[after, "null"]),
                rule: LOOKUP,
            });
        }
    }
    reads
}
