//! Spans of the store's work, for traces: which caller's call it belongs to, and each statement.

use sqlx::postgres::PgRow;
use sqlx::{Execute, FromRow};
use tracing::Span;

use super::error::StoreError;
use super::session::Statement;
pub(in crate::store) use crate::telemetry::are_wanted;

/// The span of the caller, for work that goes on in a task.
pub(in crate::store) fn current() -> Span {
    if are_wanted() {
        Span::current()
    } else {
        Span::none()
    }
}

/// A statement; its text has no values.
pub(in crate::store) fn statement(text: &str) -> Span {
    tracing::debug_span!(
        target: "spans",
        "statement",
        otel.kind = "client",
        db.system.name = "postgresql",
        db.query.text = text,
    )
}

/// The statement and its span, for which it is taken apart: its text cannot be had otherwise.
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

/// Work that is done for several callers at once: part of the first one's call, linked to the others'.
pub(in crate::store) fn shared<'s>(name: &'static str, mut callers: impl Iterator<Item = &'s Span>) -> Span {
    if !are_wanted() {
        return Span::none();
    }
    let Some(first) = callers.next() else {
        return Span::none();
    };
    let span = tracing::debug_span!(target: "spans", parent: first, "shared", otel.name = name);
    for caller in callers {
        span.follows_from(caller);
    }
    span
}
