//! The wire: the only place where tonic and prost are used.
//!
//! Converts messages to domain types and back, calls the store once and chooses status codes. An
//! RPC handler is convert, one call, convert. Start at [`event_service`]; [`convert`] holds the
//! rules of requests, [`status`] the table of errors.

mod auth;
mod batch;
mod call_info;
mod consistency;
mod convert;
mod event_service;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod ingest;
mod json;
mod middleware;
mod spirit_service;
mod status;
mod streams;

use crate::domain::limits::Limits;
use crate::store::Store;
use tokio_util::sync::CancellationToken;

pub use auth::{AuthLayer, KeyLimits, Keyring, Reflection};
pub use convert::timestamp::{time_of, timestamp_of};
pub use event_service::EventApi;
pub use json::{JsonObject, object_of_struct};
pub use middleware::{CallLayer, DeadlineLayer, ErrorLayer, PanicLayer, ReadyLayer};
pub use spirit_service::SpiritApi;

/// The generated messages, clients and servers.
#[allow(clippy::all, clippy::pedantic, missing_docs)]
pub mod pb {
    tonic::include_proto!("elephantasm.events.v1");

    /// Both services and all they use, with comments, for reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/events_descriptor.bin"));
}

/// What the services share.
#[derive(Clone)]
pub struct Context {
    pub store: Store,
    pub limits: Limits,
    /// Bytes of a request message.
    pub message_bytes_max: usize,
    /// Unanswered items that one ingest stream may have.
    pub ingest_window: usize,
    /// Cancelled when the server drains: long streams end.
    pub shutdown: CancellationToken,
}
