//! Plans of the statements on hash partitions by spirit. PostgreSQL excludes a partition under the conditions under which
//! Citus excludes a shard: an equality with the spirit, by value or by a join that the planner sees through.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{OVER_ALL_SPIRITS, is_sharded};
use crate::schema::plans::load::{empty, nodes, spirit};
use crate::schema::plans::reads::{ids, reads};
use crate::support::harness::TestServer;

/// Replaces each table of spirits by eight hash partitions, which end in the number of the shard. Fails for a table that has
/// a unique key without the spirit.
const PARTITION: &str = "
    do $$
    declare
        sources text[] := array(
            select array[table_name, column_name]
            from information_schema.columns
            where table_schema = 'public'
            and (column_name = 'spirit_id' or table_name = 'spirits' and column_name = 'id')
        );
        source text[];
    begin
        foreach source slice 1 in array sources loop
            execute format('alter table %I rename to replaced', source[1]);
            execute format(
                'create table %I (like replaced including all) partition by hash (%I)', source[1], source[2]
            );
            execute 'drop table replaced';
            for shard in 0..7 loop
                execute format(
                    'create table %I partition of %I for values with (modulus 8, remainder %s)',
                    source[1] || '_' || shard, source[1], shard
                );
            end loop;
        end loop;
    end $$";

/// The statements with arguments that name one spirit.
fn reads_of_one_spirit() -> BTreeMap<String, Vec<String>> {
    // The first arguments of each statement; of those whose first ones name no spirit or several, others.
    let reads = reads().into_iter().rev();
    let reads = reads.filter(|read| is_sharded(&read.statement));
    let mut arguments: BTreeMap<String, Vec<String>> =
        reads.map(|read| (read.statement, read.arguments)).collect();
    let (one, event) = (ids(1), spirit(7));
    let of_event = [&event, &spirit(8), "null", &event, "10", "51"];
    let several = [
        ("get_event", vec![ids(32), one.clone(), "null".to_owned()]),
        ("get_events_basic", vec![ids(32), one.clone()]),
        (
            "get_event_cut",
            [&event, &spirit(8), "null", "true", "100"]
                .map(str::to_owned)
                .into(),
        ),
        ("list_event_changes", of_event.map(str::to_owned).into()),
        ("ingest/lock", vec![one.clone()]),
        ("ingest/wait_for_all", vec![one.clone()]),
        ("ingest/spirits", vec![one.clone()]),
        ("ingest/advance", vec![one.clone(), "'{1}'".to_owned()]),
        ("live/poll", vec![one]),
    ];
    arguments.extend(several.map(|(statement, values)| (statement.to_owned(), values)));
    arguments
}

/// Numbers of the shards that a plan reads.
fn shards(plan: &Value) -> BTreeSet<char> {
    let relations = nodes(plan)
        .into_iter()
        .filter_map(|node| node["Relation Name"].as_str());
    let numbers = relations.filter_map(|name| name.chars().last());
    numbers.filter(char::is_ascii_digit).collect()
}

#[tokio::test]
async fn a_statement_that_names_one_spirit_reads_one_shard_of_every_table() {
    let server = TestServer::start().await;
    let mut planner = empty(&server).await;
    planner.set_as_the_store_does().await;
    planner.execute(PARTITION).await;
    planner.execute("set plan_cache_mode = force_custom_plan").await;
    let (mut spread, mut without) = (Vec::new(), Vec::new());
    for (statement, arguments) in reads_of_one_spirit() {
        let plan = planner.plan_once(&statement, &arguments).await;
        match shards(&plan).len() {
            0 => without.push(statement),
            1 => {}
            _ => spread.push(statement),
        }
    }
    // Statements that only insert rows read none, and API keys belong to no shard.
    without.retain(|statement| !statement.starts_with("keys/"));
    assert_eq!(without, ["move/events", "purge/retention/add"]);
    assert_eq!(spread, OVER_ALL_SPIRITS);
}
