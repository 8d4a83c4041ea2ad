//! The gRPC layer: the RPCs of all services, and the layers around every call.
//!
//! A handler converts a request to domain types, calls the store and converts the result. Domain and store do
//! not depend on tonic and prost. Start at [`event_service`]; [`convert`] checks the rules of requests,
//! [`status`] maps errors to gRPC statuses.

mod access_service;
mod auth;
mod batch;
mod call_info;
mod codec;
mod consistency;
mod context;
mod convert;
mod encoders;
mod event_service;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod ingest;
mod json;
mod json_path;
mod middleware;
pub mod pb;
mod purge_service;
mod session_service;
mod spirit_service;
mod status;
mod streams;

pub use access_service::AccessApi;
pub use auth::{AuthLayer, Keyring};
pub use context::Context;
pub use convert::create::check_create;
pub use convert::session::check_session_update;
pub use convert::timestamp::{time_of, timestamp_of};
pub use event_service::EventApi;
pub use json::{JsonObject, object_of_struct};
pub use middleware::{
    CallLayer, ConnectionReplies, DeadlineLayer, ErrorLayer, KeylessStreamLayer, OriginRules, PanicLayer,
    ProtocolLayer, ReadyLayer, ReplyBudget, ReplyLayer, ReplyLimits, TextOr, Translated,
};
pub use purge_service::PurgeApi;
pub use session_service::SessionApi;
pub use spirit_service::SpiritApi;
pub use status::MessageError;
