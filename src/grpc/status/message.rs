//! Errors of messages that are converted before they reach a handler.

use tonic::{Code, Status};

use super::builder::{StatusBuilder, truncated};
use super::{ApiError, internal, of_error};
use crate::domain::invalid::Invalid;

/// An error of a request in the form in which it arrived, or of a reply in the form in which it is sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The message is larger than this number of bytes.
    #[error("the message is larger than {0} bytes")]
    TooLarge(usize),
    /// The bytes are not a message.
    #[error("{0}")]
    Undecodable(String),
    /// The field or header of this name breaks this rule.
    #[error("{0} {1}")]
    Field(String, String),
    /// The message is compressed with an encoding of this name.
    #[error("unknown compression {0}")]
    UnknownCompression(String),
    /// The call has a stream of requests, over another protocol than gRPC.
    #[error("the call needs gRPC")]
    NeedsGrpc,
    /// A reply has no form in the protocol of its caller.
    #[error("unwritable reply: {0}")]
    Unwritable(String),
}

impl From<MessageError> for Status {
    fn from(error: MessageError) -> Self {
        ApiError::from(error).into()
    }
}

pub(super) fn of_message(error: MessageError) -> StatusBuilder {
    let unimplemented = |reason, message| StatusBuilder::new(Code::Unimplemented, reason, message, &[]);
    match error {
        MessageError::TooLarge(_) => of_error(ApiError::MessageTooLarge(error.to_string())),
        MessageError::Undecodable(message) => of_error(ApiError::Undecodable(truncated(&message))),
        MessageError::Field(field, rule) => of_error(Invalid::field(field, rule).into()),
        MessageError::UnknownCompression(name) => {
            let name = truncated(&name);
            let message = format!("the server does not know the compression {name}; use gzip or none");
            unimplemented("UNKNOWN_COMPRESSION", message)
        }
        MessageError::NeedsGrpc => {
            let message = "the method takes a stream of requests, which needs gRPC over HTTP/2";
            unimplemented("NEEDS_GRPC", message.to_owned())
        }
        MessageError::Unwritable(_) => internal(&error.to_string()),
    }
}
