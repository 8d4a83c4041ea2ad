//! Literals in statements that are sent without parameters, several at once. They are ids and numbers, which cannot
//! contain SQL.

use uuid::Uuid;

/// The parameter of spirit ids.
pub(super) const IDS: &str = "$1::uuid[]";
/// The parameter of a number for each spirit.
pub(super) const NUMBERS: &str = "$2::bigint[]";

/// Appends a statement.
pub(super) fn push(sql: &mut String, statement: &str) {
    sql.push_str(statement);
    sql.push(';');
}

pub(super) fn uuids(ids: &[Uuid]) -> String {
    array(ids, "uuid[]")
}

pub(super) fn bigints(numbers: &[i64]) -> String {
    array(numbers, "bigint[]")
}

/// Formats an array literal of values whose text needs no quoting.
fn array<T: std::fmt::Display>(values: impl IntoIterator<Item = T>, array_type: &str) -> String {
    let values: Vec<String> = values.into_iter().map(|value| value.to_string()).collect();
    format!("'{{{}}}'::{array_type}", values.join(","))
}
