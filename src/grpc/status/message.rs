//! Errors of messages that are converted before they reach a handler.

use tonic::Status;

use super::ApiError;
use super::builder::truncated;
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
        let error = match error {
            MessageError::TooLarge(_) => ApiError::MessageTooLarge(error.to_string()),
            MessageError::Undecodable(message) => ApiError::Undecodable(truncated(&message)),
            MessageError::Field(field, rule) => ApiError::Invalid(Invalid::field(field, rule)),
            MessageError::UnknownCompression(name) => ApiError::UnknownCompression(name),
            MessageError::NeedsGrpc => ApiError::NeedsGrpc,
            MessageError::Unwritable(_) => ApiError::Unwritable(error.to_string()),
        };
        error.into()
    }
}
