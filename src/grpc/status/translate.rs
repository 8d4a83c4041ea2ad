//! Errors that tonic raises by itself, in the form of this service's errors.

use tonic::{Code, Status};

use super::ApiError;
use super::builder::truncated;

/// Converts an error that tonic raised because of a request to the form of this service's errors. Returns `None` for
/// any other error, including one that has this form already.
pub(in crate::grpc) fn translate(status: &Status, message_bytes_max: usize) -> Option<Status> {
    if !status.details().is_empty() {
        return None;
    }
    match status.code() {
        Code::OutOfRange => Some(
            ApiError::MessageTooLarge(format!("the message is larger than {message_bytes_max} bytes")).into(),
        ),
        Code::Internal => Some(
            ApiError::Undecodable(truncated(&format!(
                "the bytes are not a valid message: {}",
                status.message()
            )))
            .into(),
        ),
        // tonic's status for a method of a service that is off, such as reflection, has no message.
        Code::Unimplemented if status.message().is_empty() => Some(ApiError::UnknownMethod.into()),
        _ => None,
    }
}
