//! Maps every error to a gRPC status. Handlers return errors with `?`.
//!
//! | error | code | what the client should do |
//! |---|---|---|
//! | bad fields, bad cursor, an undecodable message | `INVALID_ARGUMENT` | fix the request |
//! | unknown or hidden spirit, session or event | `NOT_FOUND` | check the id |
//! | dedupe key taken | `ALREADY_EXISTS` | treat the event as stored, or use another dedupe key |
//! | revision or sequence mismatch | `ABORTED` | read again, then decide again |
//! | too many events for one deletion | `FAILED_PRECONDITION` | select fewer events |
//! | changes that are no longer stored | `OUT_OF_RANGE` | read the events again, then watch changes from there |
//! | missing or invalid API key | `UNAUTHENTICATED` | send an API key that is neither revoked nor expired |
//! | API key without permission | `PERMISSION_DENIED` | use another API key |
//! | web page of another origin, on a server without API keys | `PERMISSION_DENIED` | allow the origin |
//! | unknown method | `UNIMPLEMENTED` | use stubs of the server's version |
//! | compression other than gzip, or a stream of requests over another protocol than gRPC | `UNIMPLEMENTED` | use gzip; use gRPC |
//! | queue full, API key over its limits, too many keyless streams, replies not read, message too large | `RESOURCE_EXHAUSTED` | retry after a delay; send less |
//! | database unavailable, server starting or draining | `UNAVAILABLE` | retry; creates with a dedupe key are safe |
//! | time limit exceeded | `DEADLINE_EXCEEDED` | retry with a longer deadline |
//! | a bug | `INTERNAL` | report the request id |

mod builder;
mod code;
mod message;
mod refusal;
mod translate;

use std::time::Duration;

use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::{FieldViolation, pb as rpc};
use uuid::Uuid;

use builder::{StatusBuilder, truncated};
use message::of_message;
use refusal::{of_batch, of_refusal};

pub(super) use code::{Severity, StatusCode};
pub use message::MessageError;
pub(super) use translate::translate;

use super::call_info::current;
use crate::domain::cursor::InvalidCursor;
use crate::domain::invalid::Invalid;
use crate::domain::refusal::Refusal;
use crate::store::StoreError;

/// An error of a call.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The field of this name does not contain a cursor of the query.
    #[error("{0} is not a cursor of this query")]
    InvalidCursor(&'static str),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("message too large: {0}")]
    MessageTooLarge(String),
    #[error("undecodable message: {0}")]
    Undecodable(String),
    #[error("missing API key")]
    MissingKey,
    #[error("invalid API key")]
    InvalidKey,
    #[error("permission denied: {0}")]
    NotAllowed(String),
    /// The API key is over its rate limit; the next call is allowed after this delay.
    #[error("too many calls")]
    TooManyCalls(Duration),
    #[error("too many streams")]
    TooManyStreams,
    /// The connection, or all connections together, have too many streams open that need no API key.
    #[error("too many streams without an API key")]
    TooManyKeylessStreams,
    /// The replies that clients have not taken yet use up the budget.
    #[error("replies not taken")]
    RepliesNotTaken,
    /// A write was committed, but its reply was dropped, because earlier replies that clients have not taken use up the
    /// budget.
    #[error("reply dropped")]
    ReplyDropped,
    /// A web page of another origin called a server without API keys.
    #[error("foreign origin: {0}")]
    OriginNotAllowed(String),
    #[error("the server has no such method")]
    UnknownMethod,
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error("deadline exceeded")]
    Deadline,
    #[error("shutting down")]
    ShuttingDown,
    #[error("starting")]
    Starting,
    #[error("the call panicked")]
    Panicked,
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        Self::Store(StoreError::Refused(refusal))
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        of_error(error).build()
    }
}

impl From<StoreError> for Status {
    fn from(error: StoreError) -> Self {
        ApiError::from(error).into()
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        ApiError::from(refusal).into()
    }
}

impl From<Invalid> for Status {
    fn from(invalid: Invalid) -> Self {
        ApiError::from(invalid).into()
    }
}

/// Returns the status of a stream that ends with this error. `resume` is the name and value of the metadata from which
/// the client can resume; it is added if a retry can succeed.
pub(super) fn stream_status(error: ApiError, resume: Option<(&str, String)>) -> Status {
    let mut status = of_error(error);
    if let (Some((name, position)), Code::Unavailable | Code::DeadlineExceeded) = (resume, status.code) {
        status.add_metadata(name, position);
    }
    status.build()
}

/// Returns an error as the result of an item of a batch or an ingest stream.
pub(super) fn item_status(error: StoreError) -> rpc::Status {
    let status = Status::from(error);
    rpc::Status::decode(status.details()).unwrap_or_else(|_| rpc::Status {
        code: status.code().into(),
        message: status.message().to_owned(),
        details: Vec::new(),
    })
}

fn of_error(error: ApiError) -> StatusBuilder {
    match error {
        ApiError::Invalid(invalid) => of_invalid(invalid),
        ApiError::InvalidCursor(field) => of_invalid_cursor(field),
        ApiError::Store(error) => of_store(error),
        ApiError::MessageTooLarge(message) => {
            StatusBuilder::new(Code::ResourceExhausted, "MESSAGE_TOO_LARGE", message, &[])
        }
        ApiError::Undecodable(message) => {
            StatusBuilder::new(Code::InvalidArgument, "UNDECODABLE", message, &[])
        }
        ApiError::MissingKey => StatusBuilder::new(
            Code::Unauthenticated,
            "MISSING_KEY",
            "an API key is required, as metadata authorization: Bearer ek_…",
            &[],
        ),
        ApiError::InvalidKey => StatusBuilder::new(
            Code::Unauthenticated,
            "INVALID_KEY",
            "the API key is unknown, revoked or expired, or is not sent as authorization: Bearer ek_…",
            &[],
        ),
        ApiError::NotAllowed(message) => {
            StatusBuilder::new(Code::PermissionDenied, "NOT_ALLOWED", message, &[])
        }
        ApiError::TooManyCalls(delay) => {
            overloaded("the API key has made more calls than it may in a second; retry after a pause")
                .retry_after(delay)
        }
        ApiError::TooManyStreams => {
            overloaded("the API key has as many streams open as it may; end one, or retry later").retry()
        }
        ApiError::TooManyKeylessStreams => overloaded(
            "too many streams of health and reflection are open, on this connection or on all; end one, or retry later",
        )
        .retry(),
        ApiError::RepliesNotTaken => overloaded(
            "clients have not read earlier replies; read them, ask for less at once, or retry after a pause",
        )
        .retry(),
        ApiError::ReplyDropped => deadline_exceeded(
            "the change was stored, but its reply was dropped, because clients have not read earlier replies",
        ),
        ApiError::OriginNotAllowed(message) => {
            StatusBuilder::new(Code::PermissionDenied, "ORIGIN_NOT_ALLOWED", message, &[])
        }
        ApiError::UnknownMethod => StatusBuilder::new(
            Code::Unimplemented,
            "UNKNOWN_METHOD",
            "the server has no such method; list its methods by reflection, or use stubs of its version",
            &[],
        ),
        ApiError::Message(error) => of_message(error),
        ApiError::Deadline => deadline_exceeded(
            "the deadline passed; a create may have been stored, and a retry with its dedupe key is safe",
        ),
        ApiError::ShuttingDown => shutting_down(),
        ApiError::Starting => database_unavailable("the server is starting; retry soon"),
        ApiError::Panicked => internal("the call panicked; the panic is in the log"),
    }
}

fn of_store(error: StoreError) -> StatusBuilder {
    match error {
        StoreError::Refused(refusal) => of_refusal(refusal),
        StoreError::BatchRefused(failures) => of_batch(failures),
        StoreError::Overloaded => overloaded(
            "too many events are waiting to be stored; nothing of this call was stored, retry after a pause",
        )
        .retry(),
        StoreError::PoolExhausted => overloaded(
            "all of the server's database connections are in use; nothing was changed, retry after a pause",
        )
        .retry(),
        StoreError::Closing => shutting_down(),
        StoreError::TimedOut => {
            deadline_exceeded("the server's time limit for a statement passed; ask for less, or retry later")
        }
        StoreError::Stalled => deadline_exceeded(
            "the client read nothing from the stream for longer than the server waits; resume where it ended",
        ),
        StoreError::Unavailable(cause) => {
            tracing::warn!(request_id = request_id(), cause, "database unavailable");
            database_unavailable(
                "the database is not available; retry, with the same dedupe key if this is a create",
            )
        }
        StoreError::ReadOnly(cause) => {
            tracing::warn!(
                request_id = request_id(),
                cause,
                "database read-only: promote it if it is a standby, or point DATABASE_URL to the primary"
            );
            database_unavailable(
                "the database is read-only at the moment, nothing was stored; reads work, retry writes later",
            )
        }
        StoreError::BadValue(cause) | StoreError::Bug(cause) => internal(&cause),
    }
}

fn of_invalid(Invalid(violations): Invalid) -> StatusBuilder {
    let mut message = violations.first().map_or_else(String::new, |first| {
        format!("{} {}", truncated(&first.field), truncated(&first.description))
    });
    if violations.len() > 1 {
        message = format!("{message} (and {} more bad fields)", violations.len() - 1);
    }
    let listed = violations
        .into_iter()
        .map(|violation| FieldViolation::new(truncated(&violation.field), truncated(&violation.description)));
    StatusBuilder::new(Code::InvalidArgument, "INVALID_FIELD", message, &[]).violations(listed)
}

fn of_invalid_cursor(field: &str) -> StatusBuilder {
    let rule = InvalidCursor.to_string();
    let message = format!("{field} {rule}");
    StatusBuilder::new(Code::InvalidArgument, "INVALID_CURSOR", message, &[])
        .violations([FieldViolation::new(field, rule)].into_iter())
}

fn overloaded(message: &str) -> StatusBuilder {
    StatusBuilder::new(Code::ResourceExhausted, "OVERLOADED", message, &[])
}

fn deadline_exceeded(message: &str) -> StatusBuilder {
    StatusBuilder::new(Code::DeadlineExceeded, "DEADLINE", message, &[])
}

fn shutting_down() -> StatusBuilder {
    let message = "the server is shutting down; retry elsewhere or later";
    StatusBuilder::new(Code::Unavailable, "SHUTTING_DOWN", message, &[]).retry()
}

fn database_unavailable(message: &str) -> StatusBuilder {
    StatusBuilder::new(Code::Unavailable, "DATABASE_UNAVAILABLE", message, &[]).retry()
}

fn internal(cause: &str) -> StatusBuilder {
    let request_id = request_id().unwrap_or_else(|| Uuid::now_v7().to_string());
    tracing::error!(request_id, cause, "internal error");
    let message = format!("internal error; the server's log has the cause under request id {request_id}");
    StatusBuilder::new(Code::Internal, "INTERNAL", message, &[]).with(|details| {
        details.set_request_info(request_id, "");
    })
}

/// Returns the request id of the current call.
fn request_id() -> Option<String> {
    current().map(|call| call.request_id().to_owned())
}
