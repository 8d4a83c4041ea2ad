//! Every statement that reads tables of the service, with arguments of every kind, and what its plan must satisfy.

use super::load::{COMMON, FILTERS, RARE, SESSIONS, spirit};
use super::{changes, flushes, moves, purges, sessions, sharded};

/// A statement with arguments, and the rule that its plan must satisfy.
pub struct Read {
    pub statement: String,
    pub arguments: Vec<String>,
    pub rule: Rule,
}

/// Requirements on a plan beyond the general one, that it reads by index conditions and never a whole table or index.
#[derive(Clone, Copy)]
pub struct Rule {
    /// Each index condition includes the spirit.
    pub by_spirit: bool,
    /// The plan contains no sort.
    pub in_order: bool,
}

pub const PAGE: Rule = Rule {
    by_spirit: true,
    in_order: true,
};
pub const SCAN: Rule = Rule {
    by_spirit: true,
    in_order: false,
};
pub const LOOKUP: Rule = Rule {
    by_spirit: false,
    in_order: false,
};
pub const LIST: Rule = Rule {
    by_spirit: false,
    in_order: true,
};

/// Every read, with every kind of argument.
pub fn reads() -> Vec<Read> {
    let reads = [
        pages(),
        plain_pages(),
        sequence_pages(),
        scans(),
        sessions::pages(),
        sessions::deletions(),
        purges::purges(),
        moves::moves(),
        lookups(),
        flushes::flushes(),
        sharded::sharded(),
        live_pages(),
        changes::pages(),
        spirit_pages(),
    ];
    reads.into_iter().flatten().collect()
}

pub fn read<const N: usize>(rule: Rule, statement: &str, arguments: [&str; N]) -> Read {
    Read {
        statement: statement.to_owned(),
        arguments: arguments.map(str::to_owned).into(),
        rule,
    }
}

/// Arguments `$1` to `$11` of statements with a scope.
fn scope(session: &str, filter: [&str; 6]) -> Vec<String> {
    let [types, roles, importance, meta, authors, path] = filter;
    let spirit_id = spirit(7);
    let others = [
        session,
        types,
        roles,
        importance,
        "'0001-01-01Z'",
        "'10000-01-01Z'",
        meta,
        "false",
        authors,
        path,
    ];
    std::iter::once(spirit_id)
        .chain(others.map(str::to_owned))
        .collect()
}

/// Every kind of scope, with the name of its access path.
pub fn scopes() -> Vec<(&'static str, Vec<String>)> {
    let mut scopes = Vec::new();
    for filter in FILTERS {
        let [types, others @ ..] = filter;
        scopes.push(("spirit", scope("null", filter)));
        for session in SESSIONS {
            scopes.push(("session", scope(session, filter)));
        }
        if types == "null" {
            let [roles, importance, meta, authors, path] = others;
            for one_type in [COMMON, RARE] {
                let filter = [one_type, roles, importance, meta, authors, path];
                scopes.push(("type", scope("null", filter)));
                scopes.push(("session", scope("'s-60'", filter)));
            }
        }
    }
    scopes
}

/// Pages of every shape, first and deep, also with the sequence bound of a replay that started long ago.
fn pages() -> Vec<Read> {
    const DEEP: &str = "'2025-01-02 12:00Z'";
    const ALL: &str = "9223372036854775807";
    const OLD: &str = "200";
    let mut reads = Vec::new();
    for (access, scope) in scopes() {
        for (order, first) in [("newest", "'10000-01-01Z'"), ("oldest", "'0001-01-01Z'")] {
            for (view, starts) in [
                (
                    "full",
                    &[(first, ALL), (first, OLD), (DEEP, ALL), (DEEP, OLD)][..],
                ),
                ("basic", &[(DEEP, ALL)]),
            ] {
                reads.extend(starts.iter().map(|(occurred_at, bound)| {
                    let page = [*occurred_at, "2000", bound, "51", "0"];
                    Read {
                        statement: format!("list_events/{access}/{order}/{view}"),
                        arguments: scope.iter().cloned().chain(page.map(str::to_owned)).collect(),
                        rule: PAGE,
                    }
                }));
            }
        }
    }
    reads
}

/// Pages without a filter, and the second read of a page with long values.
fn plain_pages() -> Vec<Read> {
    const ALL: &str = "9223372036854775807";
    let spirit_id = spirit(7);
    let mut reads = Vec::new();
    let values = SESSIONS.map(|session| ("session", Some(session)));
    let types = ["'message.in'", "'error'"].map(|event_type| ("type", Some(event_type)));
    for (access, value) in values.into_iter().chain(types).chain([("spirit", None)]) {
        for (order, first) in [("newest", "'10000-01-01Z'"), ("oldest", "'0001-01-01Z'")] {
            for (view, occurred_at, bound) in [
                ("full", first, ALL),
                ("full", "'2025-01-02 12:00Z'", "200"),
                ("basic", first, ALL),
            ] {
                let page = [&spirit_id, occurred_at, "2000", bound, "51", "0"];
                reads.push(Read {
                    statement: format!("list_events/{access}/{order}/{view}/plain"),
                    arguments: page.into_iter().chain(value).map(str::to_owned).collect(),
                    rule: PAGE,
                });
            }
        }
        for (view, after) in [("full", "3990"), ("full", "0"), ("basic", "0")] {
            if access != "type" {
                let page = [&spirit_id, after, "500", "20000"];
                reads.push(Read {
                    statement: format!("live/{access}/{view}/plain"),
                    arguments: page.into_iter().chain(value).map(str::to_owned).collect(),
                    rule: LIST,
                });
            }
        }
    }
    for (_, scope) in scopes() {
        for view in ["full", "basic"] {
            let ids = format!("'{{{:032},{:032}}}'", 7, 57);
            reads.push(Read {
                statement: format!("long_values/{view}"),
                arguments: scope.iter().cloned().chain([ids]).collect(),
                rule: LOOKUP,
            });
        }
        let ids = format!("'{{{:032},{:032}}}'", 7, 57);
        reads.push(Read {
            statement: "long_values/cut".to_owned(),
            arguments: scope.into_iter().chain([ids, "100".to_owned()]).collect(),
            rule: LOOKUP,
        });
    }
    reads
}

/// Pages in sequence order, first and deep, also with the sequence bound of a replay.
fn sequence_pages() -> Vec<Read> {
    const ALL: &str = "9223372036854775807";
    const TIME: &str = "'2025-01-02 12:00Z'";
    let mut reads = Vec::new();
    let mut add = |name: String, before: Vec<String>, page: [&str; 5], after: Option<&str>| {
        let page = page.into_iter().chain(after).map(str::to_owned);
        reads.push(Read {
            statement: format!("list_events_by_sequence/{name}"),
            arguments: before.into_iter().chain(page).collect(),
            rule: PAGE,
        });
    };
    for (direction, first) in [("forwards", "0"), ("backwards", ALL)] {
        for (view, after, bound) in [
            ("full", first, ALL),
            ("full", "2000", "200"),
            ("basic", "2000", ALL),
        ] {
            let page = [TIME, after, bound, "51", "0"];
            for (access, scope) in scopes().into_iter().filter(|(access, _)| *access != "type") {
                add(format!("{access}/{direction}/{view}"), scope, page, None);
            }
            let name = |access| format!("{access}/{direction}/{view}/plain");
            add(name("spirit"), vec![spirit(7)], page, None);
            for session in SESSIONS {
                add(name("session"), vec![spirit(7)], page, Some(session));
            }
        }
    }
    reads
}

/// Counts, sessions, and the start position of a replay of the last events.
fn scans() -> Vec<Read> {
    let mut reads = Vec::new();
    for (access, scope) in scopes() {
        if access == "session" {
            for order in ["replay", "sequence"] {
                reads.extend(["1", "50", "100000"].map(|n| {
                    Read {
                        statement: format!("nth_from_end/{order}"),
                        arguments: scope
                            .iter()
                            .cloned()
                            .chain(["4000", n].map(str::to_owned))
                            .collect(),
                        rule: PAGE,
                    }
                }));
            }
        }
        reads.push(Read {
            statement: format!("count_events/{access}"),
            arguments: scope,
            rule: SCAN,
        });
    }
    reads
}

/// Look-ups by key: events, spirits, sessions and API keys.
fn lookups() -> Vec<Read> {
    let (event, owner) = (format!("'{:032}'", 7), spirit(8));
    let (events, none, json) = (ids(1), "'{null}'", "'{\"{}\"}'");
    let update = [
        &owner, &events, "'{1}'", none, none, json, none, none, "'{role}'", json, none,
    ];
    vec![
        read(LOOKUP, "get_event", [&ids(32), "null", "null"]),
        read(LOOKUP, "get_event", [&ids(32), "null", &ids(50)]),
        read(LOOKUP, "get_event", [&ids(32), &ids(2), &ids(2)]),
        read(LOOKUP, "get_event_cut", [&event, "null", "null", "false", "100"]),
        read(LOOKUP, "get_event_cut", [&event, &owner, &ids(1), "true", "100"]),
        read(LOOKUP, "get_events_basic", [&ids(50), &ids(50)]),
        read(LOOKUP, "update_events", update),
        read(LOOKUP, "live/poll", [&ids(20)]),
        read(LOOKUP, "get_spirit", [&owner, "false"]),
        read(
            LOOKUP,
            "update_spirit",
            [
                &owner, "1", "'n'", "'N'", "null", "'{}'", "true", "1", "1", "null",
            ],
        ),
        read(
            LOOKUP,
            "update_session",
            [&owner, "'s'", "'T'", "'t'", "'o'", "'{}'", "false", "0"],
        ),
        read(LOOKUP, "last_sequence", [&owner]),
        read(LOOKUP, "migrate/spirits_without_sessions", [&owner, "1000"]),
        read(LOOKUP, "migrate/record_sessions", [&owner]),
        read(LOOKUP, "keys/find", ["'{ek_1,ek_2}'"]),
        read(LOOKUP, "keys/live", ["'{ek_1,ek_2}'"]),
        read(LOOKUP, "keys/revoke", ["'ek_1'"]),
    ]
}

/// A list of the first ids.
pub fn ids(count: u32) -> String {
    let ids: Vec<String> = (1..=count).map(|n| format!("{n:032}")).collect();
    format!("'{{{}}}'", ids.join(","))
}

/// Pages of live events, near the spirit's last sequence and far from it.
fn live_pages() -> Vec<Read> {
    let mut reads = Vec::new();
    for (access, scope) in scopes().into_iter().filter(|(access, _)| *access != "type") {
        for (view, after) in [("full", "3990"), ("full", "0"), ("basic", "0")] {
            let page = [after, "500", "20000"];
            reads.push(Read {
                statement: format!("live/{access}/{view}"),
                arguments: scope.iter().cloned().chain(page.map(str::to_owned)).collect(),
                rule: LIST,
            });
        }
    }
    reads
}

/// Pages of spirits.
fn spirit_pages() -> Vec<Read> {
    let id = spirit(100);
    let listed = format!("array[{id}]::uuid[]");
    let mut reads = vec![read(LOOKUP, "count_spirits/listed", ["false", &listed])];
    for after in ["'10000-01-01Z'", "'2024-12-31 23:30Z'"] {
        reads.push(read(
            LIST,
            "list_spirits/newest",
            [after, &id, "false", "51", "0"],
        ));
        reads.push(read(
            LOOKUP,
            "list_spirits/newest/listed",
            [after, &id, "false", "51", "0", &listed],
        ));
    }
    for (part, after) in [
        ("'spirit 2'", "''"),
        ("'spirit 2'", "'spirit 3'"),
        ("'none such'", "''"),
    ] {
        reads.push(read(
            LIST,
            "list_spirits/named",
            [part, after, &id, "false", "51", "0"],
        ));
        reads.push(read(
            LOOKUP,
            "list_spirits/named/listed",
            [part, after, &id, "false", "51", "0", &listed],
        ));
    }
    reads
}
