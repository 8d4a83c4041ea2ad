//! A data set large enough for realistic query plans, and the plans of statements on it.

use std::collections::BTreeMap;

use elephantasm_events::store;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Executor as _, PgConnection, Row as _};

use crate::support::harness::TestServer;

/// 300,000 events of the first 50 of 2,050 spirits, interleaved as by agents that work concurrently. Each of the 50
/// has sessions of 1 to 60 events and a long one of 1,200, with owners; one event in 1,000 has a rare type, one a rare
/// role, and one a rare author. 50,000 changes of one event each and 2,050 of 50. 20,000 purges and 2,000 API keys.
/// The tables get no statistics.
const LOAD: &str = "
    alter table spirits set (autovacuum_enabled = off);
    alter table events set (autovacuum_enabled = off);
    alter table sessions set (autovacuum_enabled = off);
    alter table changes set (autovacuum_enabled = off);
    alter table purges set (autovacuum_enabled = off);
    alter table keys set (autovacuum_enabled = off);

    insert into spirits (id, name, name_folded, last_sequence, created_at, activity_epoch)
    select lpad(n::text, 32, '0')::uuid, 'Spirit ' || n, 'spirit ' || n, case when n <= 50 then 6000 else 0 end,
        timestamptz '2025-01-01Z' - n * interval '1 second', 1
    from generate_series(1, 2050) as n;

    insert into events (
        id, spirit_id, sequence, event_type, content, occurred_at, session_id, role, author, meta,
        dedupe_key, importance_score, is_deleted, deleted_at
    )
    select
        lpad(n::text, 32, '0')::uuid,
        lpad((n % 50 + 1)::text, 32, '0')::uuid,
        i + 1,
        case when i % 1000 = 7 then 'error'
            else (array['message.in', 'message.out', 'tool.call', 'tool.result'])[i % 4 + 1] end,
        repeat(md5(n::text), 6),
        timestamptz '2025-01-01Z' + n * interval '1 second' - n % 7 * interval '1 hour',
        case when i % 10 = 0 then null
            when i % 5 = 1 then 'long'
            else 's-' || floor(sqrt(i * 2))::int end,
        case when i % 1000 = 13 then 'auditor' else (array['user', 'assistant', 'tool'])[i % 3 + 1] end,
        case when i % 1000 = 19 then 'reviewer' else 'Ada' end,
        jsonb_build_object('n', n % 1000),
        case when n % 3 = 0 then 'key ' || n end,
        case when n % 2 = 0 then n % 100 / 100.0 end,
        n % 20 = 0,
        case when n % 20 = 0 then now() end
    from (select n, n / 50 as i from generate_series(0, 299999) as n) as numbers;

    insert into sessions (spirit_id, session_id, active_minute, owner, title, title_folded)
    select spirit_id, session_id, date_trunc('minute', max(occurred_at) filter (where not is_deleted), 'UTC'),
        'owner ' || length(session_id), 'T', 't'
    from events
    where session_id is not null
    group by spirit_id, session_id;

    insert into changes (spirit_id, change, kind, event_id, sequence, fields, previous, revision, changed_at)
    select spirit_id, sequence, 'updated', id, sequence, '{role}', '{}', 2, now()
    from events
    where sequence <= 1000;

    insert into changes (spirit_id, change, kind, event_ids, sequences, fields, changed_at)
    select spirit_id, 1001 + sequence / 50, 'deleted', array_agg(id), array_agg(sequence), '{is_deleted}', now()
    from events
    where sequence <= 2000
    group by spirit_id, sequence / 50;

    insert into purges (spirit_id, purge_id, selection, started_at)
    select lpad((n % 50 + 1)::text, 32, '0')::uuid, lpad(n::text, 32, '0')::uuid, 'all', now()
    from generate_series(1, 20000) as n;

    insert into keys (prefix, secret_sha256, name, role)
    select 'ek_' || n, decode(repeat('00', 32), 'hex'), 'key ' || n, 'reader'
    from generate_series(1, 2000) as n";

/// Settings for parallel plans with the effect of a table a hundred times as large.
const PARALLEL_IS_FREE: &str = "set parallel_setup_cost = 0; set parallel_tuple_cost = 0;
    set min_parallel_table_scan_size = 0; set min_parallel_index_scan_size = 0";

/// Sessions of different sizes, and one that does not exist.
pub const SESSIONS: [&str; 4] = ["'long'", "'s-60'", "'s-1'", "'none such'"];
/// A list with a common event type.
pub const COMMON: &str = "'{message.in}'";
/// A list with a rare event type.
pub const RARE: &str = "'{error}'";
/// Filters as event types, roles, score, meta, authors and path: no filter, a common one, rare ones, all combined.
pub const FILTERS: [[&str; 6]; 9] = [
    ["null", "null", "null", "null", "null", "null"],
    ["'{message.in,tool.call}'", "null", "null", "null", "null", "null"],
    ["'{error,system}'", "null", "null", "null", "null", "null"],
    ["null", "'{auditor}'", "null", "null", "null", "null"],
    ["null", "null", "0.98", "null", "null", "null"],
    ["null", "null", "null", r#"'{"n": 5}'"#, "null", "null"],
    ["null", "null", "null", "null", "'{reviewer}'", "null"],
    ["null", "null", "null", "null", "null", "'$.n == 5'"],
    [
        "'{error,system}'",
        "'{auditor}'",
        "0.98",
        r#"'{"n": 5}'"#,
        "'{reviewer}'",
        "'$.n == 5'",
    ],
];

/// The id of the n-th spirit as SQL.
pub fn spirit(n: u32) -> String {
    format!("'{n:032}'")
}

/// Returns a planner on a migrated, empty database.
pub async fn empty(server: &TestServer) -> Planner {
    Planner {
        connection: server.database.connect().await,
        statements: store::STATEMENTS.iter().copied().collect(),
    }
}

/// Loads the first hundred events of the data set into a migrated database and returns a planner on it.
pub async fn small(server: &TestServer) -> Planner {
    let mut planner = empty(server).await;
    planner.execute(&LOAD.replace("299999", "99")).await;
    planner
}

/// Loads the data set into a migrated database and returns a planner on it.
pub async fn loaded(server: &TestServer) -> Planner {
    let mut planner = empty(server).await;
    planner.execute(LOAD).await;
    planner
}

/// Combinations of PostgreSQL's settings (those of the private cluster, and the defaults) with its ways to plan a
/// prepared statement (a custom plan for the values, or a generic plan).
const SETUPS: [(&str, &str); 4] = [
    (
        "private, custom",
        "set random_page_cost = 1.1; set jit = off; set plan_cache_mode = force_custom_plan",
    ),
    (
        "private, generic",
        "set random_page_cost = 1.1; set jit = off; set plan_cache_mode = force_generic_plan",
    ),
    (
        "stock, custom",
        "set random_page_cost = 4; set jit = on; set plan_cache_mode = force_custom_plan",
    ),
    (
        "stock, generic",
        "set random_page_cost = 4; set jit = on; set plan_cache_mode = force_generic_plan",
    ),
];

/// Explains statements by name.
pub struct Planner {
    connection: PgConnection,
    statements: BTreeMap<&'static str, &'static str>,
}

impl Planner {
    /// Runs statements without results.
    pub async fn execute(&mut self, sql: &str) {
        let script = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        self.connection.execute(script).await.unwrap();
    }

    /// Applies the settings that the store's connections have.
    pub async fn set_as_the_store_does(&mut self) {
        for (name, value) in store::PLANNER_SETTINGS {
            self.execute(&format!("set {name} = {value}")).await;
        }
    }

    /// Makes parallel plans as attractive as on a table a hundred times as large.
    pub async fn set_parallel_is_free(&mut self) {
        self.execute(PARALLEL_IS_FREE).await;
    }

    /// Resets all settings and creates the statistics of all tables.
    pub async fn analyze(&mut self) {
        self.execute("reset all; analyze").await;
    }

    /// The plan of a statement with these arguments under the connection's current settings.
    pub async fn plan_once(&mut self, name: &str, arguments: &[String]) -> Value {
        let sql = &self.statements[name];
        let arguments = arguments.join(", ");
        let script = format!(
            "prepare read as {sql}; explain (format json) execute read ({arguments}); deallocate read"
        );
        let rows = self
            .connection
            .fetch_all(sqlx::raw_sql(AssertSqlSafe(script)))
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let json: String = rows[0].try_get_unchecked(0).unwrap();
        serde_json::from_str::<Value>(&json).unwrap()[0]["Plan"].clone()
    }

    /// The plan of a statement with these arguments in every setup, by the setup's name. `analyze` also runs the
    /// statement.
    pub async fn plans(&mut self, name: &str, arguments: &[String], analyze: bool) -> Vec<(&str, Value)> {
        let sql = &self.statements[name];
        let options = if analyze { "analyze, " } else { "" };
        let explains = SETUPS.map(|(_, settings)| {
            let arguments = arguments.join(", ");
            format!("{settings}; explain ({options}format json) execute read ({arguments})")
        });
        let script = format!("prepare read as {sql}; {}; deallocate read", explains.join("; "));
        let rows = self
            .connection
            .fetch_all(sqlx::raw_sql(AssertSqlSafe(script)))
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(rows.len(), SETUPS.len());
        let plans = rows.into_iter().map(|row| {
            let json: String = row.try_get_unchecked(0).unwrap();
            serde_json::from_str::<Value>(&json).unwrap()[0]["Plan"].clone()
        });
        SETUPS.iter().map(|(setup, _)| *setup).zip(plans).collect()
    }
}

/// The nodes of a plan, each before its children.
pub fn nodes(plan: &Value) -> Vec<&Value> {
    let children = plan["Plans"].as_array().into_iter().flatten();
    std::iter::once(plan).chain(children.flat_map(nodes)).collect()
}

/// The plan in one readable line.
pub fn outline(plan: &Value) -> String {
    let steps = nodes(plan).into_iter().map(|node| {
        let words =
            ["Node Type", "Index Name", "Index Cond"].map(|key| node[key].as_str().unwrap_or_default());
        words.join(" ").trim_end().to_owned()
    });
    steps.collect::<Vec<_>>().join(" > ")
}
