//! Converts requests of `SoftDeleteEvents` and `RestoreEvents`, and their replies.

use super::read::selection;
use super::timestamp::{time, timestamp_of};
use crate::domain::deletion::{Deleted, Deletion, Restoration};
use crate::domain::ids::SpiritId;
use crate::domain::invalid::{Fields, Invalid};
use crate::domain::limits::{Limits, SESSION_ID_CHARS_MAX};
use crate::grpc::pb;

/// Converts a soft delete of many events.
pub(crate) fn deletion(
    request: pb::SoftDeleteEventsRequest,
    changed_by: Option<String>,
    limits: &Limits,
) -> Result<Deletion, Invalid> {
    let pb::SoftDeleteEventsRequest {
        spirit_id,
        session_id,
        after_sequence,
        filter,
        expected_last_sequence,
        expected_session_last_sequence,
    } = request;
    let mut f = Fields::default();
    if filter.as_ref().is_some_and(|filter| filter.include_deleted) {
        f.refuse(
            "filter.include_deleted",
            "must be false, since deleted events stay as they are",
        );
    }
    let selection = selection(&mut f, &spirit_id, session_id, filter, limits);
    if selection.session_id.is_none() && after_sequence.is_none() && selection.filter.is_empty() {
        f.refuse(
            "session_id",
            "is required, unless after_sequence or a condition in filter is given",
        );
    }
    if expected_session_last_sequence.is_some() && selection.session_id.is_none() {
        f.refuse("expected_session_last_sequence", "needs session_id");
    }
    let mut number = |field, number: Option<i64>| number.map(|number| f.at_least(field, number, 0));
    let deletion = Deletion {
        after_sequence: number("after_sequence", after_sequence).unwrap_or(0),
        expected_last_sequence: number("expected_last_sequence", expected_last_sequence),
        expected_session_last_sequence: number(
            "expected_session_last_sequence",
            expected_session_last_sequence,
        ),
        selection,
        changed_by,
    };
    f.finish(deletion)
}

/// Converts the outcome of a soft delete of many events.
pub(crate) fn deletion_response(deleted: Deleted) -> pb::SoftDeleteEventsResponse {
    pb::SoftDeleteEventsResponse {
        deleted_count: deleted.count,
        deleted_at: deleted.deleted_at.map(timestamp_of),
    }
}

/// Converts a restore of the events of a deletion.
pub(crate) fn restoration(
    request: pb::RestoreEventsRequest,
    changed_by: Option<String>,
) -> Result<Restoration, Invalid> {
    let pb::RestoreEventsRequest {
        spirit_id,
        deleted_at,
        session_id,
    } = request;
    let mut f = Fields::default();
    if deleted_at.is_none() {
        f.refuse("deleted_at", "is required: the deleted_at of the deletion");
    }
    let restoration = Restoration {
        spirit_id: SpiritId(f.uuid("spirit_id", &spirit_id)),
        deleted_at: time(&mut f, "deleted_at", deleted_at.unwrap_or_default()),
        session_id: session_id.map(|text| f.chars("session_id", text, SESSION_ID_CHARS_MAX)),
        changed_by,
    };
    f.finish(restoration)
}
