//! Query plans: every read is an index access by spirit, and pages need no sort. This holds for custom and generic
//! plans, with the private cluster's settings and with PostgreSQL's defaults.

mod load;

use serde_json::Value;

use self::load::{COMMON, FILTERS, Planner, RARE, SESSIONS, empty, loaded, nodes, outline, spirit};
use crate::support::harness::TestServer;

/// A statement with arguments, and the rule that its plan must satisfy.
struct Read {
    statement: String,
    arguments: Vec<String>,
    rule: Rule,
}

/// Requirements on a plan beyond the general one, that it reads by index conditions and never a whole table or index.
#[derive(Clone, Copy)]
struct Rule {
    /// Each index condition includes the spirit.
    by_spirit: bool,
    /// The plan contains no sort.
    in_order: bool,
}

const PAGE: Rule = Rule {
    by_spirit: true,
    in_order: true,
};
const SCAN: Rule = Rule {
    by_spirit: true,
    in_order: false,
};
const LOOKUP: Rule = Rule {
    by_spirit: false,
    in_order: false,
};
const LIST: Rule = Rule {
    by_spirit: false,
    in_order: true,
};

fn read<const N: usize>(rule: Rule, statement: &str, arguments: [&str; N]) -> Read {
    Read {
        statement: statement.to_owned(),
        arguments: arguments.map(str::to_owned).into(),
        rule,
    }
}

/// Arguments `$1` to `$9` of statements with a scope.
fn scope(session: &str, filter: [&str; 4]) -> Vec<String> {
    let [types, roles, importance, meta] = filter;
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
    ];
    std::iter::once(spirit_id)
        .chain(others.map(str::to_owned))
        .collect()
}

/// Every kind of scope, with the name of its access path.
fn scopes() -> Vec<(&'static str, Vec<String>)> {
    let mut scopes = Vec::new();
    for filter in FILTERS {
        let [types, others @ ..] = filter;
        scopes.push(("spirit", scope("null", filter)));
        for session in SESSIONS {
            scopes.push(("session", scope(session, filter)));
        }
        if types == "null" {
            let [roles, importance, meta] = others;
            for one_type in [COMMON, RARE] {
                scopes.push(("type", scope("null", [one_type, roles, importance, meta])));
                scopes.push(("session", scope("'s-60'", [one_type, roles, importance, meta])));
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
                    let page = [*occurred_at, "2000", bound, "51", "0", "2097152"];
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

/// Counts, and the start position of a replay of the last events.
fn scans() -> Vec<Read> {
    let mut reads = Vec::new();
    for (access, scope) in scopes() {
        if access == "session" {
            reads.extend(["1", "50", "100000"].map(|n| {
                Read {
                    statement: "nth_from_end".to_owned(),
                    arguments: scope
                        .iter()
                        .cloned()
                        .chain(["4000", n].map(str::to_owned))
                        .collect(),
                    rule: PAGE,
                }
            }));
        }
        reads.push(Read {
            statement: format!("count_events/{access}"),
            arguments: scope,
            rule: SCAN,
        });
    }
    reads
}

/// Look-ups by key: events, spirits, API keys, and the statements of a flush.
fn lookups() -> Vec<Read> {
    let (event, owner) = (format!("'{:032}'", 7), spirit(8));
    let ids = |n: u32| {
        let ids: Vec<String> = (1..=n).map(|n| format!("{n:032}")).collect();
        format!("'{{{}}}'", ids.join(","))
    };
    let key_owners = format!("array_fill('{:032}'::uuid, array[200])", 8);
    let keys = format!("'{{{}}}'", vec!["key 57"; 200].join(","));
    vec![
        read(LOOKUP, "get_event", [&ids(32), "null", "null"]),
        read(LOOKUP, "get_event", [&ids(32), "null", &ids(50)]),
        read(LOOKUP, "get_event", [&ids(32), &ids(2), &ids(2)]),
        read(LOOKUP, "get_events_basic", [&ids(50), &ids(50)]),
        read(
            SCAN,
            "update_event",
            [
                &event, &owner, "1", "null", "null", "'{}'", "null", "null", "true",
            ],
        ),
        read(SCAN, "ingest/dedupe_keys", [&key_owners, &keys]),
        read(
            LOOKUP,
            "ingest/fast_path",
            [
                &ids(2),
                "'{1,0}'",
                "true",
                &ids(1),
                &ids(1),
                "'{1}'",
                "'{x}'",
                "'{NULL}'",
                "'{x}'",
                "array[now()]",
                "'{NULL}'",
                "'{NULL}'",
                "'{NULL}'",
                "array['{}']",
                "'{NULL}'",
                "'{NULL}'",
                "'{NULL}'",
            ],
        ),
        read(LOOKUP, "live/poll", [&ids(20)]),
        read(LOOKUP, "ingest/lock", [&ids(20)]),
        read(LOOKUP, "ingest/wait", [&ids(1)]),
        read(LOOKUP, "ingest/spirits", [&ids(20)]),
        read(LOOKUP, "ingest/advance", [&ids(2), "'{1,2}'"]),
        read(LOOKUP, "get_spirit", [&owner, "false"]),
        read(
            LOOKUP,
            "update_spirit",
            [&owner, "1", "'n'", "'N'", "null", "'{}'", "true"],
        ),
        read(LOOKUP, "last_sequence", [&owner]),
        read(LOOKUP, "keys/find", ["'{ek_1,ek_2}'"]),
        read(LOOKUP, "keys/live", ["'{ek_1,ek_2}'"]),
        read(LOOKUP, "keys/revoke", ["'ek_1'"]),
    ]
}

/// Pages of live events, near the spirit's last sequence and far from it.
fn live_pages() -> Vec<Read> {
    let mut reads = Vec::new();
    for (access, scope) in scopes().into_iter().filter(|(access, _)| *access != "type") {
        for (view, after) in [("full", "3990"), ("full", "0"), ("basic", "0")] {
            let page = [after, "500", "262144", "20000"];
            reads.push(Read {
                statement: format!("live/{access}/{view}"),
                arguments: scope.iter().cloned().chain(page.map(str::to_owned)).collect(),
                rule: LOOKUP,
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

/// Violations of the rule by a plan.
fn violations(plan: &Value, rule: Rule) -> Vec<&'static str> {
    let mut violations = Vec::new();
    for node in nodes(plan) {
        let kind = node["Node Type"].as_str().unwrap();
        let by_index = kind.starts_with("Index") || kind == "Bitmap Index Scan";
        if kind == "Seq Scan" {
            violations.push("reads a whole table");
        }
        if by_index && node["Index Cond"].is_null() {
            violations.push("reads a whole index");
        }
        if by_index && rule.by_spirit && !node["Index Cond"].to_string().contains("spirit_id") {
            violations.push("reads an index without a condition on the spirit");
        }
        if kind.ends_with("Sort") && rule.in_order {
            violations.push("sorts");
        }
    }
    violations
}

/// The largest number of rows that entered a sort, in a plan with actual row counts.
fn rows_sorted(plan: &Value) -> f64 {
    let sorts = nodes(plan)
        .into_iter()
        .filter(|node| node["Node Type"].as_str().unwrap().ends_with("Sort"));
    let inputs = sorts.map(|sort| {
        let input = &sort["Plans"][0];
        input["Actual Rows"].as_f64().unwrap() * input["Actual Loops"].as_f64().unwrap()
    });
    inputs.fold(0.0, f64::max)
}

/// Asserts that ListSessions sorts one row per session of the spirit at most.
async fn list_sessions_sorts_sessions_only(planner: &mut Planner) {
    const SESSIONS_OF_A_SPIRIT: f64 = 91.0;
    let spirit_id = spirit(7);
    for after in ["'10000-01-01Z'", "'2025-01-02 12:00Z'"] {
        let arguments = [&spirit_id, after, "''", "51"].map(str::to_owned);
        for (setup, plan) in planner.plans("list_sessions", &arguments, true).await {
            let outline = outline(&plan);
            assert_eq!(violations(&plan, SCAN), [""; 0], "{setup}: {outline}");
            let sorted = rows_sorted(&plan);
            assert!(sorted > 0.0, "{setup}: {outline}");
            assert!(
                sorted <= SESSIONS_OF_A_SPIRIT,
                "{setup}, {sorted} rows sorted: {outline}"
            );
        }
    }
}

#[tokio::test]
async fn every_read_uses_index_conditions_on_the_spirit_and_pages_need_no_sort() {
    let server = TestServer::start().await;
    let mut planner = loaded(&server).await;
    let mut failures = Vec::new();
    let reads = [pages(), scans(), lookups(), live_pages(), spirit_pages()];
    for Read {
        statement,
        arguments,
        rule,
    } in reads.into_iter().flatten()
    {
        for (setup, plan) in planner.plans(&statement, &arguments, false).await {
            for violation in violations(&plan, rule) {
                let arguments = arguments.join(", ");
                failures.push(format!(
                    "{statement} ({arguments}), {setup}, {violation}: {}",
                    outline(&plan)
                ));
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{} plans:\n{}",
        failures.len(),
        failures.join("\n")
    );
    list_sessions_sorts_sessions_only(&mut planner).await;
}

/// The index of `events` that statements must use, by prefix of their name. An edit is not listed: it binds id and
/// spirit by equality, so that it can be routed to one shard, and may use the spirit's index until the first ANALYZE
/// of a new table.
const INDEXES: [(&str, &str); 8] = [
    ("ingest/dedupe_keys", "uq_events_dedupe_key"),
    ("live/spirit", "uq_events_sequence"),
    ("live/session", "uq_events_sequence"),
    ("list_events/spirit", "ix_events_spirit_id"),
    ("list_events/type", "ix_events_event_type"),
    ("list_events/session", "ix_events_session_id"),
    ("nth_from_end", "ix_events_session_id"),
    ("get_event", "pk_events"),
];

/// A prepared statement keeps the plan made when the table was empty and had no statistics, so that plan must
/// already use the right index.
#[tokio::test]
async fn plans_made_on_a_new_database_use_the_right_index() {
    let server = TestServer::start().await;
    let mut planner = empty(&server).await;
    let mut failures = Vec::new();
    let reads = [pages(), scans(), lookups(), live_pages()];
    for Read {
        statement, arguments, ..
    } in reads.into_iter().flatten()
    {
        let Some((_, index)) = INDEXES.iter().find(|(prefix, _)| statement.starts_with(prefix)) else {
            continue;
        };
        let plan = planner.plan_once(&statement, &arguments).await;
        let event_indexes = nodes(&plan)
            .into_iter()
            .filter_map(|node| node["Index Name"].as_str())
            .filter(|name| !name.ends_with("_spirits"));
        if event_indexes.clone().count() == 0 || event_indexes.clone().any(|name| name != *index) {
            failures.push(format!("{statement}: {}", outline(&plan)));
        }
    }
    failures.dedup();
    assert!(
        failures.is_empty(),
        "{} plans:\n{}",
        failures.len(),
        failures.join("\n")
    );
}
