//! Spans of the store's work, for traces: which caller's call it belongs to, and each statement.

use tracing::Span;

pub(super) use crate::telemetry::are_wanted;

/// The span of the caller, for work that goes on in a task.
pub(super) fn current() -> Span {
    if are_wanted() {
        Span::current()
    } else {
        Span::none()
    }
}

/// A statement; its text has no values.
pub(super) fn statement(text: &str) -> Span {
    tracing::debug_span!(
        target: "spans",
        "statement",
        otel.kind = "client",
        db.system.name = "postgresql",
        db.query.text = text,
    )
}

/// Work that is done for several callers at once: part of the first one's call, linked to the others'.
pub(super) fn shared<'s>(name: &'static str, mut callers: impl Iterator<Item = &'s Span>) -> Span {
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
