//! How a call ended, for those who count and log calls and choose no codes.

use http::HeaderMap;
use tonic::{Code, Status};

/// The code of an ended call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::grpc) struct Ending(Code);

/// Who has to do something about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::grpc) enum Severity {
    /// Nobody, or the client.
    Client,
    /// Whoever runs the service: it cannot do what it is there for.
    Operator,
    /// Whoever writes it.
    Developer,
}

/// All codes, each at its number, as the contract writes them.
const NAMES: [&str; Ending::COUNT] = [
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

impl Ending {
    /// How many endings there are.
    pub(in crate::grpc) const COUNT: usize = 17;
    /// The client went away, or its connection broke.
    pub(in crate::grpc) const GONE: Self = Self(Code::Cancelled);
    /// The reply broke off without saying how it ended.
    pub(in crate::grpc) const UNSAID: Self = Self(Code::Unknown);

    /// What these headers or trailers say, if they end a call.
    pub(in crate::grpc) fn of(headers: &HeaderMap) -> Option<Self> {
        let code = headers.get(Status::GRPC_STATUS)?;
        Some(Self(Code::from_bytes(code.as_bytes())))
    }

    /// All of them, each at its index.
    pub(in crate::grpc) fn all() -> [Self; Self::COUNT] {
        std::array::from_fn(|index| Self(Code::from_i32(i32::try_from(index).unwrap_or_default())))
    }

    pub(in crate::grpc) fn index(self) -> usize {
        usize::try_from(i32::from(self.0)).unwrap_or_default()
    }

    pub(in crate::grpc) fn name(self) -> &'static str {
        NAMES[self.index()]
    }

    pub(in crate::grpc) fn concern(self) -> Severity {
        match self.0 {
            Code::Internal | Code::Unknown | Code::DataLoss => Severity::Developer,
            Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded => Severity::Operator,
            _ => Severity::Client,
        }
    }
}
