//! Connect and gRPC-Web in front of the gRPC services.
//!
//! A request of another protocol becomes the gRPC request of the same path, and the gRPC reply becomes a reply of that
//! protocol. All middleware and all handlers lie between the two layers of this module, so they see gRPC only:
//!
//! - [`GatewayLayer`], outside the middleware, translates headers, framing and errors ([`connect`] for Connect,
//!   tonic-web for gRPC-Web);
//! - [`MessageLayer`], inside the middleware, converts messages between JSON and Protobuf ([`json`]) and compresses
//!   them, so that the reply budget counts the bytes that are sent.
//!
//! Request bodies are converted when the handler reads them, after authentication. Messages are known by their
//! descriptors ([`schema`]) only. Must not depend on the store.

mod connect;
mod cors;
mod frames;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod gzip;
mod json;
mod layer;
mod messages;
mod schema;

pub use cors::{CorsOrigins, cors_layer};
pub use json::parse_message;
pub use layer::{BoxError, GatewayLayer};
pub use messages::MessageLayer;
