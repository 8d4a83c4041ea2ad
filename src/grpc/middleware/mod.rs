//! Tower layers around every call, outermost first: [`calls`] counts and logs, [`panic`] turns panics into
//! INTERNAL, [`deadline`] holds time limits, the form of errors and readiness.

pub(super) mod body;
mod calls;
mod deadline;
mod methods;
mod panic;
mod request_id;

pub use calls::CallLayer;
pub use deadline::{DeadlineLayer, ErrorLayer, ReadyLayer};
pub use panic::PanicLayer;
