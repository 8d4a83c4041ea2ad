//! Statements over the change history.

use super::load::spirit;
use super::reads::{LIST, LOOKUP, Read, read};

/// Pages of changes: of an event and of a spirit, first and deep.
pub fn pages() -> Vec<Read> {
    let (event, owner) = (format!("'{:032}'", 7), spirit(8));
    let (last, own) = (
        "'ffffffff-ffff-ffff-ffff-ffffffffffff'",
        format!("array[{owner}]::uuid[]"),
    );
    vec![
        read(
            LOOKUP,
            "list_event_changes",
            [&event, "null", "null", last, "9223372036854775807", "51"],
        ),
        read(
            LOOKUP,
            "list_event_changes",
            [&event, &owner, &own, &owner, "10", "51"],
        ),
        read(LIST, "live/changes", [&owner, "0", "500"]),
        read(LIST, "live/changes", [&owner, "2000", "500"]),
        read(LOOKUP, "live/change_bounds", [&owner]),
    ]
}
