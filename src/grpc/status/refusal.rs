//! Statuses of refusals, the decisions of the domain against a request.

use tonic::Code;

use super::builder::{StatusBuilder, truncated};
use super::{internal, of_invalid};
use crate::domain::refusal::Refusal;

/// Maximum number of failed items whose indexes an error lists.
const FAILED_INDEXES_MAX: usize = 100;

pub(super) fn of_refusal(refusal: Refusal) -> StatusBuilder {
    match refusal {
        Refusal::SpiritNotFound(id) => {
            let message = format!("spirit {id} does not exist or is deleted");
            not_found("SPIRIT_NOT_FOUND", "Spirit", &id.to_string(), message)
        }
        Refusal::SpiritNotDeleted(id) => StatusBuilder::new(
            Code::FailedPrecondition,
            "SPIRIT_NOT_DELETED",
            format!("spirit {id} is not soft-deleted, so it cannot be purged; soft-delete it before"),
            &[],
        ),
        Refusal::EventNotFound(id) => {
            let message = format!("event {id} does not exist or is deleted");
            not_found("EVENT_NOT_FOUND", "Event", &id.to_string(), message)
        }
        Refusal::SessionNotFound(id) => {
            let message = format!("session {} does not exist", truncated(&id));
            not_found("SESSION_NOT_FOUND", "Session", &id, message)
        }
        Refusal::TooManyEvents { max } => StatusBuilder::new(
            Code::FailedPrecondition,
            "TOO_MANY_EVENTS",
            format!("more than {max} events are selected, nothing was deleted; select fewer"),
            &[("max", max.to_string())],
        ),
        Refusal::ChangesGone { oldest } => StatusBuilder::new(
            Code::OutOfRange,
            "CHANGES_GONE",
            format!(
                "changes before {oldest} are no longer stored; read the events again, then watch from there"
            ),
            &[("oldest_change", oldest.to_string())],
        ),
        Refusal::Duplicate {
            dedupe_key,
            existing,
            different,
        } => of_duplicate(dedupe_key, existing.map(|id| id.to_string()), different),
        Refusal::RevisionMismatch { expected, actual } => {
            mismatch("REVISION_MISMATCH", "revision", expected, actual)
        }
        Refusal::SequenceMismatch { expected, actual } => {
            mismatch("SEQUENCE_MISMATCH", "last_sequence", expected, actual)
        }
        Refusal::SessionSequenceMismatch {
            session_id,
            expected,
            actual,
        } => {
            let mut status = mismatch("SEQUENCE_MISMATCH", "session_last_sequence", expected, actual);
            status.message = format!(
                "expected_session_last_sequence is {expected}, but the session's last_sequence is {actual}; read again, \
                 then decide again"
            );
            status.add_metadata("session_id", session_id);
            status
        }
        Refusal::Invalid(invalid) => of_invalid(invalid),
    }
}

fn not_found(reason: &str, kind: &str, id: &str, message: String) -> StatusBuilder {
    StatusBuilder::new(Code::NotFound, reason, message, &[]).with(|details| {
        details.set_resource_info(format!("elephantasm.events.v1.{kind}"), truncated(id), "", "");
    })
}

fn of_duplicate(dedupe_key: String, existing: Option<String>, different: bool) -> StatusBuilder {
    let message = match &existing {
        Some(id) if different => format!("the dedupe_key is taken by event {id}, which is different"),
        Some(id) => format!("the dedupe_key is taken by event {id}, which is the same"),
        None => "the dedupe_key is that of an earlier item of this batch, which was refused".to_owned(),
    };
    let mut metadata = vec![("dedupe_key", dedupe_key), ("different", different.to_string())];
    metadata.extend(existing.map(|id| ("existing_event_id", id)));
    StatusBuilder::new(Code::AlreadyExists, "DUPLICATE_EVENT", message, &metadata)
}

fn mismatch(reason: &str, field: &str, expected: i64, actual: i64) -> StatusBuilder {
    let message = format!(
        "expected_{field} is {expected}, but the stored {field} is {actual}; read again, then decide again"
    );
    let metadata = [("expected", expected.to_string()), ("actual", actual.to_string())];
    StatusBuilder::new(Code::Aborted, reason, message, &metadata)
}

/// Returns the status of the first failed item, with the indexes of all failed items.
pub(super) fn of_batch(failures: Vec<(usize, Refusal)>) -> StatusBuilder {
    let count = failures.len();
    let indexes: Vec<String> = failures
        .iter()
        .take(FAILED_INDEXES_MAX)
        .map(|(index, _)| index.to_string())
        .collect();
    let Some((index, refusal)) = failures.into_iter().next() else {
        return internal("a batch was refused without a failed item");
    };
    let mut status = of_refusal(refusal);
    status.message = format!(
        "requests[{index}]: {}; nothing of the batch was stored",
        status.message
    );
    status.add_metadata("failed_index", index.to_string());
    status.add_metadata("failed_indexes", indexes.join(","));
    status.add_metadata("failed_count", count.to_string());
    status
}
