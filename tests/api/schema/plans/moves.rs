//! Statements of moves.

use super::load::spirit;
use super::reads::{LOOKUP, Read, ids, read};

pub fn moves() -> Vec<Read> {
    let owner = spirit(8);
    let ids = ids(20);
    let null = "'{NULL}'";
    vec![
        read(
            LOOKUP,
            "move/spirit",
            [&owner, "'n'", "'n'", "null", "'{}'", "null", "now()", "now()"],
        ),
        read(LOOKUP, "move/has_purges", [&owner]),
        read(LOOKUP, "move/stored_events", [&owner, &ids]),
        read(
            LOOKUP,
            "move/events",
            [
                &owner,
                &format!("array[{owner}]::uuid[]"),
                "'{1}'",
                "'{x}'",
                null,
                "'{x}'",
                "array[now()]",
                "'{s}'",
                "array['{}']",
                null,
                null,
                null,
                null,
                "array[now()]",
                "array[now()]",
            ],
        ),
        read(LOOKUP, "move/advance", [&owner, "7", "null"]),
    ]
}
