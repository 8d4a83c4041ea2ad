//! Forms of statements that Citus refuses, or does not send to a single shard.

use elephantasm_events::store::STATEMENTS;

use super::{LIMITED_BY_ELEMENT, is_sharded};

/// The statement without comments, with single spaces and none after a parenthesis.
fn normalized(sql: &str) -> String {
    let lines = sql
        .lines()
        .map(|line| line.split("--").next().unwrap_or_default());
    let words: Vec<&str> = lines.flat_map(str::split_whitespace).collect();
    words.join(" ").to_lowercase().replace("( ", "(")
}

/// Names of the statements of a distributed database to which the predicate applies, sorted.
fn statements_that(predicate: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let of_spirits = STATEMENTS
        .iter()
        .filter(|(name, _)| !name.starts_with("keys/") && is_sharded(name));
    let found = of_spirits.filter(|(_, sql)| predicate(&normalized(sql)));
    let mut names: Vec<&str> = found.map(|(name, _)| *name).collect();
    names.sort_unstable();
    names
}

/// The text from the start, which ends before a parenthesis, to the one that closes it.
fn parenthesized(text: &str) -> &str {
    let mut depth = 1;
    for (position, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &text[..position];
        }
    }
    text
}

/// The texts in parentheses after each occurrence of `before`.
fn groups<'t>(sql: &'t str, before: &str) -> Vec<&'t str> {
    let starts = sql.match_indices(before).map(|(start, _)| start + before.len());
    starts.map(|start| parenthesized(&sql[start..])).collect()
}

/// The conditional expressions of the statement: arguments of `coalesce`, and `case` up to the next `end`.
fn conditionals(sql: &str) -> Vec<&str> {
    let cases = sql.split("case when ").skip(1);
    let cases = cases.map(|text| text.split(" end").next().unwrap_or_default());
    groups(sql, "coalesce(").into_iter().chain(cases).collect()
}

#[test]
fn no_statement_changes_rows_in_with() {
    let modifies = |sql: &str| {
        let mut parts = groups(sql, " as (").into_iter();
        parts.any(|part| {
            ["insert ", "update ", "delete "]
                .iter()
                .any(|verb| part.starts_with(verb))
        })
    };
    assert_eq!(statements_that(modifies), [""; 0]);
}

#[test]
fn only_the_listed_statements_limit_a_subquery_for_each_element_of_an_array() {
    let seeks = |sql: &str, is_of_spirit: bool| {
        let after_array = sql.split_once("unnest(").map_or("", |(_, rest)| rest);
        groups(after_array, "lateral (").iter().any(|part| {
            let names_spirit = part.contains("spirit_id = $1") || part.contains("spirit_id = any($1)");
            part.contains(" limit ") && names_spirit == is_of_spirit
        })
    };
    assert_eq!(statements_that(|sql| seeks(sql, true)), LIMITED_BY_ELEMENT);
    assert_eq!(statements_that(|sql| seeks(sql, false)), [""; 0]);
}

#[test]
fn no_update_decides_whether_to_read_the_clock() {
    let is_conditional = |sql: &str| {
        let is_update = sql.starts_with("update ") || sql.contains(" update ") || sql.contains("(update ");
        let mut conditionals = conditionals(sql).into_iter();
        is_update && conditionals.any(|part| part.contains("now()") || part.contains("_timestamp()"))
    };
    assert_eq!(statements_that(is_conditional), [""; 0]);
}

#[test]
fn no_statement_reads_a_clock_that_moves_while_it_runs() {
    assert_eq!(statements_that(|sql| sql.contains("clock_timestamp()")), [""; 0]);
}

/// Beginnings of statements that Citus applies to distributed tables within a transaction; `tests/api/citus/` runs all
/// migrations on them. A new form belongs here once it was run there.
const FORMS_OF_MIGRATIONS: [&str; 5] = [
    "create table ",
    "create index ",
    "create unique index ",
    "drop index ",
    "alter table ",
];

/// Actions of `alter table` to which the same applies.
const ACTIONS_OF_ALTER_TABLE: [&str; 3] = ["add column ", "add constraint ", "drop constraint "];

/// Names and texts of the migrations.
fn migrations() -> Vec<(String, String)> {
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).unwrap();
    files
        .map(|file| {
            let path = file.unwrap().path();
            let sql = normalized(&std::fs::read_to_string(&path).unwrap());
            (path.display().to_string(), sql)
        })
        .collect()
}

#[test]
fn every_migration_is_one_statement() {
    for (name, sql) in migrations() {
        assert_eq!(sql.find(';'), Some(sql.len() - 1), "{name}");
    }
}

#[test]
fn every_migration_has_a_form_that_citus_applies_to_distributed_tables() {
    for (name, sql) in migrations() {
        let is_known = FORMS_OF_MIGRATIONS.iter().any(|form| sql.starts_with(form));
        assert!(is_known && !sql.contains(" concurrently "), "{name}");
        let Some(altered) = sql.strip_prefix("alter table ") else {
            continue;
        };
        let (_, actions) = altered.split_once(' ').unwrap();
        let is_known = ACTIONS_OF_ALTER_TABLE
            .iter()
            .any(|action| actions.starts_with(action));
        assert!(is_known, "{name}");
    }
}
