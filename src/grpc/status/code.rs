//! The status code with which a call ended, for metrics and logs.

use http::HeaderMap;
use tonic::{Code, Status};

/// The gRPC status code with which a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::grpc) struct StatusCode(Code);

/// The severity of a status code, by the party that has to act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::grpc) enum Severity {
    /// Only the client, if anyone.
    Client,
    /// The operator, because the service cannot do its work.
    Operator,
    /// The developer, because there is a bug.
    Developer,
}

/// The names of all codes by number, as the gRPC specification writes them.
const NAMES: [&str; StatusCode::COUNT] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

impl StatusCode {
    /// Number of status codes.
    pub(in crate::grpc) const COUNT: usize = 17;
    /// The code of a call that the client cancelled, or whose connection broke.
    pub(in crate::grpc) const CANCELLED: Self = Self(Code::Cancelled);
    /// The code of a call whose reply ended without a status.
    pub(in crate::grpc) const UNKNOWN: Self = Self(Code::Unknown);

    /// Reads the code from headers or trailers; `None` if they do not end a call.
    pub(in crate::grpc) fn of(headers: &HeaderMap) -> Option<Self> {
        let code = headers.get(Status::GRPC_STATUS)?;
        Some(Self(Code::from_bytes(code.as_bytes())))
    }

    /// Returns all codes by number.
    pub(in crate::grpc) fn all() -> [Self; Self::COUNT] {
        std::array::from_fn(|index| Self(Code::from_i32(i32::try_from(index).unwrap_or_default())))
    }

    /// Returns the number of the code.
    pub(in crate::grpc) fn index(self) -> usize {
        usize::try_from(i32::from(self.0)).unwrap_or_default()
    }

    /// Returns the name of the code, as the gRPC specification writes it.
    pub(in crate::grpc) fn name(self) -> &'static str {
        NAMES[self.index()]
    }

    /// Returns the severity of the code.
    pub(in crate::grpc) fn severity(self) -> Severity {
        match self.0 {
            Code::Internal | Code::Unknown | Code::DataLoss => Severity::Developer,
            Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded => Severity::Operator,
            _ => Severity::Client,
        }
    }
}
