//! Statements of purges and of retention.

use super::load::spirit;
use super::reads::{LOOKUP, Read, read};

pub fn purges() -> Vec<Read> {
    const NONE: &str = "null";
    const NOW: &str = "now()";
    let (event, owner) = (format!("'{:032}'", 7), spirit(8));
    let ids = format!("array[{event}]::uuid[]");
    let last = "9223372036854775807";
    vec![
        read(LOOKUP, "list_purges/of_spirit", [&owner, NOW, &event, "51"]),
        read(LOOKUP, "list_purges/of_spirits", [NONE, NOW, &event, "51"]),
        read(LOOKUP, "purge/walk/sequences", [&owner, "0", last, NONE, NONE]),
        read(
            LOOKUP,
            "purge/walk/sequences",
            [&owner, "10", "3000", "'Ada'", NOW],
        ),
        read(
            LOOKUP,
            "purge/walk/deleted",
            [&owner, "10", last, "'2020-01-01Z'", NOW],
        ),
        read(
            LOOKUP,
            "purge/walk/sessions",
            [&owner, "10", last, "'{long,s-1}'", "'long'"],
        ),
        read(LOOKUP, "purge/walk/ids", [&owner, "0", last, &ids]),
        read(LOOKUP, "purge/walk_owner", [&owner, "''", "'owner 4'"]),
        read(LOOKUP, "purge/start", [&owner, &event, "'all'", NONE, NONE]),
        read(LOOKUP, "purge/finish", [&owner, &event]),
        read(LOOKUP, "purge/lock", [&owner]),
        read(
            LOOKUP,
            "purge/events",
            [&owner, "'{1,2,3}'", "'Ada'", NOW, "'owner 4'", &event, NONE],
        ),
        read(
            LOOKUP,
            "purge/clear_former_values",
            [&owner, "7", "'Ada'", NOW, "'owner 4'"],
        ),
        read(LOOKUP, "purge/remove_sessions", [&owner, "'{long,s-1}'"]),
        read(
            LOOKUP,
            "purge/lower_active_minutes",
            [&owner, "'{long,s-1}'", "array[now(),now()]"],
        ),
        read(LOOKUP, "purge/walk_empty_sessions", [&owner, "''"]),
        read(
            LOOKUP,
            "purge/remove_empty_sessions",
            [&owner, "''", "'s-1'", NONE],
        ),
        read(LOOKUP, "purge/walk_changes", [&owner, "0", NOW]),
        read(LOOKUP, "purge/remove_changes", [&owner, "0", "1000"]),
        read(LOOKUP, "purge/remove_spirit", [&owner]),
        read(LOOKUP, "purge/retention/spirits", [&owner]),
        read(LOOKUP, "purge/retention/bounds", [&owner]),
        read(LOOKUP, "purge/retention/add", [&owner, "1", "1", "1", &event]),
        read(LOOKUP, "purge/retention/record_scan", [&owner]),
    ]
}
