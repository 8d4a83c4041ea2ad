//! Tracing spans of the store: of a call, of a statement, and of work shared by several calls.

use sqlx::postgres::PgRow;
use sqlx::{Execute, FromRow};
use tracing::Span;

use super::error::StoreError;
use super::session::Statement;
pub(in crate::store) use crate::telemetry::are_wanted;

/// Returns the span of the current call, to be the parent of work that runs in a task.
pub(in crate::store) fn current() -> Span {
    if are_wanted() {
        Span::current()
    } else {
        Span::none()
    }
}

/// Creates the span of a statement. Its SQL must not contain parameter values.
pub(in crate::store) fn statement(sql: &str) -> Span {
    tracing::debug_span!(
        target: "spans",
        "statement",
        otel.kind = "client",
        db.system.name = "postgresql",
        db.query.text = sql,
    )
}

/// Returns the statement with its span. The statement is rebuilt, because sqlx returns the SQL of a statement
/// only after its arguments were taken.
pub(in crate::store) fn traced<Row>(
    mut query: Statement<'_, Row>,
) -> Result<(Statement<'_, Row>, Span), StoreError>
where
    Row: for<'r> FromRow<'r, PgRow> + Send + Unpin,
{
    if !are_wanted() {
        return Ok((query, Span::none()));
    }
    let persistent = Execute::persistent(&query);
    let arguments = query.take_arguments();
    let arguments = arguments.map_err(|error| StoreError::Bug(error.to_string()))?;
    let sql = query.sql();
    let span = self::statement(sql.as_str());
    let query = sqlx::query_as_with(sql, arguments.unwrap_or_default());
    Ok((query.persistent(persistent), span))
}

/// Creates the span of work that is shared by several calls: a child of the first call's span, linked to the
/// spans of the other calls.
pub(in crate::store) fn shared<'s>(name: &'static str, mut calls: impl Iterator<Item = &'s Span>) -> Span {
    if !are_wanted() {
        return Span::none();
    }
    let Some(first) = calls.next() else {
        return Span::none();
    };
    let span = tracing::debug_span!(target: "spans", parent: first, "shared", otel.name = name);
    for call in calls {
        span.follows_from(call);
    }
    span
}
