//! Tower layers around every call: [`calls`] counts and logs, [`protocol`] rejects requests that are not gRPC,
//! [`reply_budget`] bounds the memory of replies, [`keyless_streams`] bounds streams without an API key, [`panic`] turns panics into INTERNAL, [`deadline`]
//! enforces time limits, [`error_form`] converts tonic's errors, [`readiness`] refuses calls before the database
//! is migrated and while the server drains. `server/services.rs` puts them in order.

pub(super) mod body;
mod calls;
mod deadline;
mod error_form;
mod keyless_streams;
mod methods;
mod origin;
mod panic;
mod protocol;
mod readiness;
mod reply_budget;
mod request_id;

pub use calls::CallLayer;
pub use deadline::DeadlineLayer;
pub use error_form::ErrorLayer;
pub use keyless_streams::KeylessStreamLayer;
pub use origin::OriginRules;
pub use panic::PanicLayer;
pub use protocol::{ProtocolLayer, TextOr, Translated};
pub use readiness::ReadyLayer;
pub use reply_budget::{ConnectionReplies, ReplyBudget, ReplyLayer, ReplyLimits};
