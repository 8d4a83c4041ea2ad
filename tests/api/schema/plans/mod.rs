//! Query plans: every read is an index access by spirit, and pages need no sort. This holds for custom and generic
//! plans, with the private cluster's settings and with PostgreSQL's defaults, and for the store's own settings also on
//! a new database and on a large table without statistics.

mod changes;
pub mod flushes;
pub mod load;
mod moves;
mod purges;
pub mod reads;
mod sessions;
mod sharded;

use serde_json::Value;

use self::load::{Planner, empty, loaded, nodes, outline, small, spirit};
use self::reads::{Read, Rule, reads};
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

/// Asserts that a page reads no more sessions than it holds and one, however many the spirit has.
async fn pages_of_sessions_read_what_they_hold(planner: &mut Planner) {
    const LIMIT: f64 = 6.0;
    let spirit_id = spirit(7);
    for (statement, owner) in [
        ("list_sessions/spirit/earlier", None),
        ("list_sessions/owner/earlier", Some("'owner 4'")),
    ] {
        let page = [&spirit_id, "'10000-01-01Z'", "''", "'0001-01-01Z'", "6", "true"];
        let arguments: Vec<String> = page.into_iter().chain(owner).map(str::to_owned).collect();
        for (setup, plan) in planner.plans(statement, &arguments, true).await {
            let of_sessions = nodes(&plan).into_iter().filter(|node| {
                node["Relation Name"] == "sessions" || node["Index Name"] == "ix_sessions_owner"
            });
            let read: f64 = of_sessions
                .map(|node| {
                    let removed = node["Rows Removed by Filter"].as_f64().unwrap_or_default();
                    (node["Actual Rows"].as_f64().unwrap() + removed) * node["Actual Loops"].as_f64().unwrap()
                })
                .sum();
            assert!(
                read > 0.0 && read <= LIMIT,
                "{statement}, {setup}: {read} rows, {}",
                outline(&plan)
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
    pages_of_sessions_read_what_they_hold(&mut planner).await;
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

/// The indexes of events, sessions and changes that statements may use, by prefix of their name.
const INDEXES: [(&str, &[&str]); 60] = [
    ("sharded/list_purges/of_spirits", &["ix_purges_started_at"]),
    ("sharded/ingest/dedupe_keys", &["uq_events_dedupe_key"]),
    (
        "sharded/ingest/session_last_sequences",
        &["ix_events_session_sequence"],
    ),
    ("sharded/update_events", &["pk_events"]),
    ("sharded/change_deletion", &["pk_events"]),
    ("sharded/restore_events", &["ix_events_deleted_at"]),
    ("sharded/delete/spirit", &["uq_events_sequence"]),
    ("sharded/delete/session", &["ix_events_session_sequence"]),
    ("sharded/delete/occurred_at", &["ix_events_occurred_at"]),
    ("list_purges/of_spirit/", &["ix_purges_spirit_id"]),
    ("list_purges/of_spirits/", &["ix_purges_started_at"]),
    (
        "purge/walk/sequences/",
        &["uq_events_sequence", "ix_changes_event_id"],
    ),
    (
        "purge/walk/deleted/",
        &["ix_events_deleted_at", "ix_changes_event_id"],
    ),
    (
        "purge/walk/sessions/",
        &["ix_events_session_sequence", "ix_changes_event_id"],
    ),
    ("purge/walk/ids/", &["pk_events", "ix_changes_event_id"]),
    ("purge/walk_owner/", &["pk_sessions"]),
    (
        "purge/events/",
        &[
            "uq_events_sequence",
            "pk_sessions",
            "ix_changes_event_id",
            "pk_purges",
        ],
    ),
    (
        "purge/clear_former_values/",
        &[
            "uq_events_sequence",
            "pk_sessions",
            "ix_changes_event_id",
            "pk_changes",
        ],
    ),
    (
        "purge/remove_sessions/",
        &[
            "pk_sessions",
            "ix_events_session_sequence",
            "ix_events_session_id",
        ],
    ),
    (
        "purge/lower_active_minutes/",
        &["pk_sessions", "ix_events_session_id"],
    ),
    (
        "purge/remove_empty_sessions/",
        &[
            "pk_sessions",
            "ix_events_session_sequence",
            "ix_events_session_id",
        ],
    ),
    ("purge/walk_empty_sessions/", &["pk_sessions"]),
    ("purge/remove_changes/", &["pk_changes"]),
    ("purge/walk_changes/", &["pk_changes"]),
    ("move/stored_events", &["pk_events"]),
    ("ingest/dedupe_keys", &["uq_events_dedupe_key"]),
    ("ingest/session_last_sequences", &["ix_events_session_sequence"]),
    ("long_values", &["pk_events"]),
    ("live/spirit", &["uq_events_sequence"]),
    ("live/session", &["ix_events_session_sequence"]),
    ("live/changes", &["pk_changes"]),
    ("live/change_bounds", &["pk_changes"]),
    (
        "list_event_changes",
        &["ix_changes_event_id", "ix_changes_event_ids"],
    ),
    ("list_events_by_sequence/spirit", &["uq_events_sequence"]),
    ("list_events_by_sequence/session", &["ix_events_session_sequence"]),
    ("list_events/spirit", &["ix_events_occurred_at"]),
    ("list_events/type", &["ix_events_occurred_at"]),
    ("list_events/session", &["ix_events_session_id"]),
    ("count_events/spirit", &["ix_events_occurred_at"]),
    ("count_events/type", &["ix_events_occurred_at"]),
    ("count_events/session", &["ix_events_session_id"]),
    ("nth_from_end/replay", &["ix_events_session_id"]),
    ("nth_from_end/sequence", &["ix_events_session_sequence"]),
    ("get_event", &["pk_events"]),
    ("update_events", &["pk_events"]),
    (
        "list_sessions/spirit",
        &[
            "ix_sessions_active_minute",
            "ix_events_session_id",
            "ix_events_session_sequence",
        ],
    ),
    (
        "list_sessions/owner",
        &[
            "ix_sessions_owner",
            "ix_events_session_id",
            "ix_events_session_sequence",
        ],
    ),
    (
        "list_sessions_filtered/spirit",
        &[
            "ix_sessions_active_minute",
            "ix_events_session_id",
            "ix_events_session_sequence",
        ],
    ),
    (
        "list_sessions_filtered/owner",
        &[
            "ix_sessions_owner",
            "ix_events_session_id",
            "ix_events_session_sequence",
        ],
    ),
    (
        "get_session",
        &[
            "pk_sessions",
            "ix_events_session_id",
            "ix_events_session_sequence",
        ],
    ),
    ("delete/event/", &["pk_events"]),
    ("delete/restore_event/", &["pk_events"]),
    (
        "delete/lower_active_minute/",
        &["pk_sessions", "ix_events_session_id"],
    ),
    ("delete/restore_events/", &["ix_events_deleted_at", "pk_sessions"]),
    ("delete/count/occurred_at", &["ix_events_occurred_at"]),
    ("delete/events/occurred_at", &["ix_events_occurred_at"]),
    ("delete/count/spirit", &["uq_events_sequence"]),
    ("delete/count/session", &["ix_events_session_sequence"]),
    ("delete/events/spirit", &["uq_events_sequence"]),
    ("delete/events/session", &["ix_events_session_sequence"]),
];

/// Plans that use another index of events, sessions or changes than they may, or none.
async fn wrong_indexes(planner: &mut Planner) -> Vec<String> {
    let mut failures = Vec::new();
    for Read {
        statement, arguments, ..
    } in reads()
    {
        let Some((_, allowed)) = INDEXES
            .iter()
            .find(|(prefix, _)| format!("{statement}/").starts_with(prefix))
        else {
            continue;
        };
        let plan = planner.plan_once(&statement, &arguments).await;
        let event_indexes = nodes(&plan)
            .into_iter()
            .filter_map(|node| node["Index Name"].as_str())
            .filter(|name| !name.ends_with("_spirits"));
        if event_indexes.clone().count() == 0 || event_indexes.clone().any(|name| !allowed.contains(&name)) {
            failures.push(format!("{statement}: {}", outline(&plan)));
        }
        let outline = outline(&plan);
        if statement.contains("/type") && !outline.contains("event_type = ") {
            failures.push(format!(
                "{statement}: the index does not decide on the type: {outline}"
            ));
        }
        if statement.contains("events/session/") && !outline.contains("session_id") {
            failures.push(format!(
                "{statement}: the index does not decide on the session: {outline}"
            ));
        }
    }
    failures
}

/// Statements that are planned each time they run, by prefix of their name.
const PLANNED_ANEW: [&str; 5] = [
    "sharded/",
    "delete/count/",
    "delete/events/",
    "delete/restore_events",
    "purge/",
];

/// A prepared statement keeps the plan made when the table was empty and had no statistics, so that plan must
/// already use the right index.
#[tokio::test]
async fn plans_made_on_a_new_database_use_the_right_index() {
    let server = TestServer::start().await;
    let mut planner = empty(&server).await;
    assert_kept_plans_use_the_right_index(&mut planner).await;
}

/// The same for a plan made on a few rows without statistics, for which a scan by another index is estimated to cost as
/// little.
#[tokio::test]
async fn plans_made_on_a_hundred_events_use_the_right_index() {
    let server = TestServer::start().await;
    let mut planner = small(&server).await;
    assert_kept_plans_use_the_right_index(&mut planner).await;
}

async fn assert_kept_plans_use_the_right_index(planner: &mut Planner) {
    planner.set_as_the_store_does().await;
    let mut failures = wrong_indexes(planner).await;
    failures.retain(|failure| !PLANNED_ANEW.iter().any(|prefix| failure.starts_with(prefix)));
    assert_none(failures);
}

/// Statements that read no table of events or spirits, or all of a small one, so that no plan of theirs can be bad.
const WITHOUT_PLAN: [&str; 13] = [
    "sharded/record_step",
    "check_json_path",
    "live/notify",
    "ingest/copy",
    "create_spirit",
    "count_spirits",
    "migrate/versions",
    "migrate/is_incomplete",
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
