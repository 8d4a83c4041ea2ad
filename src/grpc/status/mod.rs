//! The one place where errors become gRPC statuses.
//!
//! | error | code | what the client should do |
//! |---|---|---|
//! | bad fields, bad cursor, bytes that are no message | `INVALID_ARGUMENT` | mend the request |
//! | unknown or hidden spirit or event | `NOT_FOUND` | look for the id |
//! | dedupe key taken | `ALREADY_EXISTS` | treat as done, or use another key |
//! | revision or sequence guard | `ABORTED` | read again, decide anew |
//! | no key, no valid key | `UNAUTHENTICATED` | send a key that is neither revoked nor expired |
//! | the key may not do this | `PERMISSION_DENIED` | use another key |
//! | queue full, key over its limits, message too large | `RESOURCE_EXHAUSTED` | retry after a pause; send less |
//! | database away, draining, starting | `UNAVAILABLE` | retry; creates with a dedupe key are safe |
//! | out of time | `DEADLINE_EXCEEDED` | retry with more time |
//! | a bug | `INTERNAL` | report the request id |

mod answer;
mod ending;

use std::time::Duration;

use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::{FieldViolation, pb as rpc};
use uuid::Uuid;

use answer::{Answer, shown};

pub(super) use ending::{Ending, Severity};

use super::call_info::current;
use crate::domain::invalid::Invalid;
use crate::domain::refusal::Refusal;
use crate::store::StoreError;

/// Failing items that one error lists.
const FAILED_INDEXES_MAX: usize = 100;

/// Why a call is answered with an error.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The token in this field is none of this query.
    #[error("{0} is no token of this query")]
    InvalidCursor(&'static str),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("message too large: {0}")]
    MessageTooLarge(String),
    #[error("undecodable: {0}")]
    Undecodable(String),
    #[error("no key")]
    MissingKey,
    #[error("no valid key")]
    InvalidKey,
    #[error("not allowed: {0}")]
    NotAllowed(String),
    /// The key has used up its calls; there will be one after this time.
    #[error("too many calls")]
    TooManyCalls(Duration),
    #[error("too many streams")]
    TooManyStreams,
    #[error("out of time")]
    Deadline,
    #[error("shutting down")]
    ShuttingDown,
    #[error("starting")]
    Starting,
    #[error("a call panicked")]
    Panicked,
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        Self::Store(StoreError::Refused(refusal))
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        error.status(None)
    }
}

impl ApiError {
    /// The status of a stream that ends here; metadata of this name says where its client can resume.
    pub(super) fn into_stream_status(self, resume: Option<(&str, String)>) -> Status {
        self.status(resume)
    }

    /// The error inside a reply, for one item of a batch.
    pub(super) fn into_item(self) -> rpc::Status {
        let status = self.status(None);
        rpc::Status::decode(status.details()).unwrap_or_else(|_| rpc::Status {
            code: status.code().into(),
            message: status.message().to_owned(),
            details: Vec::new(),
        })
    }

    fn status(self, resume: Option<(&str, String)>) -> Status {
        let mut answer = self.answer();
        if let (Some((name, place)), Code::Unavailable | Code::DeadlineExceeded) = (resume, answer.code) {
            answer.put(name, place);
        }
        answer.into_status()
    }

    fn answer(self) -> Answer {
        match self {
            Self::Invalid(invalid) => of_invalid(invalid),
            Self::InvalidCursor(field) => {
                let rule = crate::domain::cursor::InvalidCursor.to_string();
                Answer::new(
                    Code::InvalidArgument,
                    "INVALID_CURSOR",
                    format!("{field} {rule}"),
                    &[],
                )
                .listing([FieldViolation::new(field, rule)].into_iter())
            }
            Self::Store(error) => of_store(error),
            Self::MessageTooLarge(message) => {
                Answer::new(Code::ResourceExhausted, "MESSAGE_TOO_LARGE", message, &[])
            }
            Self::Undecodable(message) => Answer::new(Code::InvalidArgument, "UNDECODABLE", message, &[]),
            Self::MissingKey => Answer::new(
                Code::Unauthenticated,
                "MISSING_KEY",
                "a key is needed, as metadata authorization: Bearer ek_…",
                &[],
            ),
            Self::InvalidKey => Answer::new(
                Code::Unauthenticated,
                "INVALID_KEY",
                "the key is unknown, revoked or expired, or is not sent as authorization: Bearer ek_…",
                &[],
            ),
            Self::NotAllowed(message) => Answer::new(Code::PermissionDenied, "NOT_ALLOWED", message, &[]),
            Self::TooManyCalls(pause) => Answer::new(
                Code::ResourceExhausted,
                "OVERLOADED",
                "the key has made more calls than it may in a second; retry after a pause",
                &[],
            )
            .retry_after(pause),
            Self::TooManyStreams => Answer::new(
                Code::ResourceExhausted,
                "OVERLOADED",
                "the key has as many streams open as it may; end one, or retry later",
                &[],
            )
            .retry(),
            Self::Deadline => Answer::new(
                Code::DeadlineExceeded,
                "DEADLINE",
                "the deadline passed; a create may have been stored, and a retry with its dedupe key is safe",
                &[],
            ),
            Self::ShuttingDown => unavailable(
                "SHUTTING_DOWN",
                "the server is shutting down; retry elsewhere or later",
            ),
            Self::Panicked => internal("a call panicked; the log has told where"),
            Self::Starting => unavailable("DATABASE_UNAVAILABLE", "the server is starting; retry soon"),
        }
    }
}

fn unavailable(reason: &str, message: &str) -> Answer {
    Answer::new(Code::Unavailable, reason, message, &[]).retry()
}

fn of_invalid(Invalid(violations): Invalid) -> Answer {
    let mut message = violations.first().map_or_else(String::new, |first| {
        format!("{} {}", shown(&first.field), shown(&first.description))
    });
    if violations.len() > 1 {
        message = format!("{message} (and {} more bad fields)", violations.len() - 1);
    }
    let listed = violations
        .into_iter()
        .map(|violation| FieldViolation::new(shown(&violation.field), shown(&violation.description)));
    Answer::new(Code::InvalidArgument, "INVALID_FIELD", message, &[]).listing(listed)
}

fn of_store(error: StoreError) -> Answer {
    match error {
        StoreError::Refused(refusal) => of_refusal(refusal),
        StoreError::BatchRefused(failures) => of_batch(failures),
        StoreError::Overloaded => Answer::new(
            Code::ResourceExhausted,
            "OVERLOADED",
            "too many events are waiting to be stored; nothing of this call was, retry after a pause",
            &[],
        )
        .retry(),
        StoreError::Closing => unavailable(
            "SHUTTING_DOWN",
            "the server is shutting down; retry elsewhere or later",
        ),
        StoreError::TimedOut => Answer::new(
            Code::DeadlineExceeded,
            "DEADLINE",
            "the server's time limit for a statement passed; ask for less, or retry later",
            &[],
        ),
        StoreError::Stalled => Answer::new(
            Code::DeadlineExceeded,
            "DEADLINE",
            "nothing of the stream was taken for longer than the server waits; resume where it ended",
            &[],
        ),
        StoreError::Unavailable(cause) => {
            tracing::warn!(request_id = request_id(), cause, "database unavailable");
            unavailable(
                "DATABASE_UNAVAILABLE",
                "the database is not available; retry, with the same dedupe key if this is a create",
            )
        }
        StoreError::ReadOnly(cause) => {
            tracing::warn!(
                request_id = request_id(),
                cause,
                "the database is read-only: promote it if it is a standby, or let DATABASE_URL lead to the primary"
            );
            unavailable(
                "DATABASE_UNAVAILABLE",
                "the database is read-only at the moment, nothing was stored; reads work, retry writes later",
            )
        }
        StoreError::Bug(cause) => internal(&cause),
    }
}

/// Of the call that the error belongs to.
fn request_id() -> Option<String> {
    current().map(|call| call.request_id().to_owned())
}

fn internal(cause: &str) -> Answer {
    let request_id = request_id().unwrap_or_else(|| Uuid::now_v7().to_string());
    tracing::error!(request_id, cause, "internal error");
    let message = format!("internal error; the server's log tells more under request id {request_id}");
    Answer::new(Code::Internal, "INTERNAL", message, &[]).with(|details| {
        details.set_request_info(request_id, "");
    })
}

fn of_refusal(refusal: Refusal) -> Answer {
    match refusal {
        Refusal::SpiritNotFound(id) => not_found("SPIRIT_NOT_FOUND", "spirit", &id.to_string()),
        Refusal::EventNotFound(id) => not_found("EVENT_NOT_FOUND", "event", &id.to_string()),
        Refusal::Duplicate { dedupe_key, existing } => {
            of_duplicate(dedupe_key, existing.map(|id| id.to_string()))
        }
        Refusal::RevisionMismatch { expected, actual } => {
            mismatch("REVISION_MISMATCH", "revision", expected, actual)
        }
        Refusal::SequenceMismatch { expected, actual } => {
            mismatch("SEQUENCE_MISMATCH", "last_sequence", expected, actual)
        }
        Refusal::Invalid(invalid) => of_invalid(invalid),
    }
}

fn not_found(reason: &str, kind: &str, id: &str) -> Answer {
    let message = format!("{kind} {id} does not exist or is deleted");
    Answer::new(Code::NotFound, reason, message, &[]).with(|details| {
        details.set_resource_info(
            format!("elephantasm.events.v1.{}{}", kind[..1].to_uppercase(), &kind[1..]),
            id,
            "",
            "",
        );
    })
}

fn of_duplicate(dedupe_key: String, existing: Option<String>) -> Answer {
    let message = match &existing {
        Some(id) => format!("the dedupe_key is taken by event {id}"),
        None => "the dedupe_key is that of an earlier item of this batch, which was refused".to_owned(),
    };
    let mut metadata = vec![("dedupe_key", dedupe_key)];
    metadata.extend(existing.map(|id| ("existing_event_id", id)));
    Answer::new(Code::AlreadyExists, "DUPLICATE_EVENT", message, &metadata)
}

fn mismatch(reason: &str, field: &str, expected: i64, actual: i64) -> Answer {
    let message = format!(
        "expected_{field} is {expected}, but the stored {field} is {actual}; read again and decide anew"
    );
    let metadata = [("expected", expected.to_string()), ("actual", actual.to_string())];
    Answer::new(Code::Aborted, reason, message, &metadata)
}

/// The answer of the lowest failing item, and which others failed.
fn of_batch(failures: Vec<(usize, Refusal)>) -> Answer {
    let count = failures.len();
    let indexes: Vec<String> = failures
        .iter()
        .take(FAILED_INDEXES_MAX)
        .map(|(index, _)| index.to_string())
        .collect();
    let Some((index, refusal)) = failures.into_iter().next() else {
        return internal("a batch was refused without a failing item");
    };
    let mut answer = of_refusal(refusal);
    answer.message = format!(
        "requests[{index}]: {}; nothing of the batch was stored",
        answer.message
    );
    answer.put("failed_index", index.to_string());
    answer.put("failed_indexes", indexes.join(","));
    answer.put("failed_count", count.to_string());
    answer
}

/// Gives an error of tonic's own the form that all errors of this service have; `None` for one that
/// is not the request's fault or has that form already.
pub(super) fn translate(status: &Status, message_bytes_max: usize) -> Option<Status> {
    if !status.details().is_empty() {
        return None;
    }
    match status.code() {
        Code::OutOfRange => Some(
            ApiError::MessageTooLarge(format!("the message is larger than {message_bytes_max} bytes")).into(),
        ),
        Code::Internal => Some(
            ApiError::Undecodable(shown(&format!(
                "the bytes are no such message: {}",
                status.message()
            )))
            .into(),
        ),
        _ => None,
    }
}
