//! Query plans: every read is an index access by spirit, and pages need no sort. This holds for custom and generic
//! plans, with the private cluster's settings and with PostgreSQL's defaults, and for the store's own settings also on
//! a new database and on a large table without statistics.

mod load;
mod reads;

use serde_json::Value;

use self::load::{Planner, empty, loaded, nodes, outline, spirit};
use self::reads::{Read, Rule, SCAN, reads};
use crate::support::harness::TestServer;

/// Violations of the rule by a plan.
fn violations(plan: &Value, rule: Rule) -> Vec<&'static str> {
    let mut violations = Vec::new();
    for node in nodes(plan) {
        let kind = node["Node Type"].as_str().unwrap();
        let by_index = kind.starts_with("Index") || kind == "Bitmap Index Scan";
        if kind == "Seq Scan" {
            violations.push("reads a whole table");
        }
        if kind.starts_with("Gather") {
            violations.push("starts parallel workers");
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
    const SESSIONS_OF_A_SPIRIT: f64 = 111.0;
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

/// Panics if there are failures, and prints each once.
fn assert_none(mut failures: Vec<String>) {
    failures.dedup();
    let (count, lines) = (failures.len(), failures.join("\n"));
    assert!(failures.is_empty(), "{count} plans:\n{lines}");
}

#[tokio::test]
async fn every_read_uses_index_conditions_on_the_spirit_and_pages_need_no_sort_with_and_without_statistics() {
    let server = TestServer::start().await;
    let mut planner = loaded(&server).await;
    planner.set_as_the_store_does().await;
    planner.set_parallel_is_free().await;
    assert_none(without_statistics(&mut planner).await);
    planner.analyze().await;
    assert_none(with_statistics(&mut planner).await);
    list_sessions_sorts_sessions_only(&mut planner).await;
}

/// Bad plans on a large table that was never analysed, as after a restore.
async fn without_statistics(planner: &mut Planner) -> Vec<String> {
    let mut failures = wrong_indexes(planner).await;
    for Read {
        statement,
        arguments,
        rule,
    } in reads()
    {
        let plan = planner.plan_once(&statement, &arguments).await;
        let violations = violations(&plan, rule).into_iter();
        failures.extend(violations.map(|violation| {
            let arguments = arguments.join(", ");
            format!("{statement} ({arguments}), {violation}: {}", outline(&plan))
        }));
    }
    failures
}

/// Bad plans on an analysed table, in every setup.
async fn with_statistics(planner: &mut Planner) -> Vec<String> {
    let mut failures = Vec::new();
    for Read {
        statement,
        arguments,
        rule,
    } in reads()
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
    failures
}

/// The index of `events` that statements must use, by prefix of their name.
const INDEXES: [(&str, &str); 17] = [
    ("ingest/dedupe_keys", "uq_events_dedupe_key"),
    ("ingest/session_last_sequences", "ix_events_session_sequence"),
    ("long_values", "pk_events"),
    ("live/spirit", "uq_events_sequence"),
    ("live/session", "ix_events_session_sequence"),
    ("list_events_by_sequence/spirit", "uq_events_sequence"),
    ("list_events_by_sequence/session", "ix_events_session_sequence"),
    ("list_events/spirit", "ix_events_occurred_at"),
    ("list_events/type", "ix_events_occurred_at"),
    ("list_events/session", "ix_events_session_id"),
    ("count_events/spirit", "ix_events_occurred_at"),
    ("count_events/type", "ix_events_occurred_at"),
    ("count_events/session", "ix_events_session_id"),
    ("nth_from_end/replay", "ix_events_session_id"),
    ("nth_from_end/sequence", "ix_events_session_sequence"),
    ("get_event", "pk_events"),
    ("update_event", "pk_events"),
];

/// Plans that use another index of `events` than they must, or none.
async fn wrong_indexes(planner: &mut Planner) -> Vec<String> {
    let mut failures = Vec::new();
    for Read {
        statement, arguments, ..
    } in reads()
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
        let outline = outline(&plan);
        if statement.contains("/type") && !outline.contains("event_type = ") {
            failures.push(format!(
                "{statement}: the index does not decide on the type: {outline}"
            ));
        }
    }
    failures
}

/// A prepared statement keeps the plan made when the table was empty and had no statistics, so that plan must
/// already use the right index.
#[tokio::test]
async fn plans_made_on_a_new_database_use_the_right_index() {
    let server = TestServer::start().await;
    let mut planner = empty(&server).await;
    planner.set_as_the_store_does().await;
    assert_none(wrong_indexes(&mut planner).await);
}

/// Statements that read no table of events or spirits, or all of a small one, so that no plan of theirs can be bad.
const WITHOUT_PLAN: [&str; 11] = [
    "check_json_path",
    "live/notify",
    "ingest/copy",
    "create_spirit",
    "count_spirits",
    "migrate/versions",
    "keys/create",
    "keys/list",
    "keys/any_exists",
    "standby/primary",
    "standby/standby",
];

#[test]
fn the_plan_of_every_statement_is_checked() {
    let checked: Vec<String> = reads().into_iter().map(|read| read.statement).collect();
    for (name, _) in elephantasm_events::store::STATEMENTS {
        let is_checked = checked.iter().any(|statement| statement == name);
        assert!(is_checked != WITHOUT_PLAN.contains(name), "{name}");
    }
}
