//! The kinds of failure and their exit codes, so that a script can react without reading messages.

use std::process::ExitCode;

use thiserror::Error;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::output::OutputClosed;
use super::printable::printable_lines;
use crate::config::BadSettings;
use crate::server::MissingAuthentication;

/// The exit codes as `--help` lists them.
pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  any other failure, or some of the input was refused
  2  invalid options or settings
  3  the server refused the request as invalid
  4  there is no such spirit, session or event
  5  conflict with the stored state: a guard, a duplicate, a precondition
  6  the API key is missing, unknown or not allowed to do this
  7  the server is unreachable, overloaded or too slow; may be retried";

/// A kind of failure. Its value is the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Failure {
    Other = 1,
    Usage = 2,
    InvalidRequest = 3,
    NotFound = 4,
    Conflict = 5,
    NotAllowed = 6,
    Unavailable = 7,
}

/// A message for people with the kind of its failure. As the context of an error it decides the exit code.
#[derive(Debug, Error)]
#[error("{text}")]
pub(super) struct CommandError {
    failure: Failure,
    text: String,
}

impl CommandError {
    pub(super) fn new(failure: Failure, text: impl Into<String>) -> Self {
        Self {
            failure,
            text: text.into(),
        }
    }
}

impl Failure {
    /// Returns the kind of an error.
    pub(super) fn of(error: &anyhow::Error) -> Self {
        if error.is::<BadSettings>() || error.is::<MissingAuthentication>() {
            return Self::Usage;
        }
        error
            .downcast_ref::<CommandError>()
            .map_or(Self::Other, |error| error.failure)
    }
}

impl From<&Status> for Failure {
    fn from(status: &Status) -> Self {
        match status.code() {
            Code::InvalidArgument | Code::OutOfRange => Self::InvalidRequest,
            Code::NotFound => Self::NotFound,
            Code::AlreadyExists | Code::Aborted | Code::FailedPrecondition => Self::Conflict,
            Code::Unauthenticated | Code::PermissionDenied => Self::NotAllowed,
            // A message that is too large stays so.
            Code::ResourceExhausted if status.get_details_retry_info().is_none() => Self::InvalidRequest,
            Code::ResourceExhausted | Code::Unavailable | Code::DeadlineExceeded => Self::Unavailable,
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::Unimplemented
            | Code::Internal
            | Code::DataLoss => Self::Other,
        }
    }
}

impl From<Failure> for ExitCode {
    fn from(failure: Failure) -> Self {
        Self::from(failure as u8)
    }
}

/// Prints the error and returns its exit code. A closed output is a success: its reader has what it wanted.
pub(super) fn report(error: &anyhow::Error) -> ExitCode {
    if error.is::<OutputClosed>() {
        return ExitCode::SUCCESS;
    }
    eprintln!("error: {}", printable_lines(&format!("{error:#}")));
    Failure::of(error).into()
}
