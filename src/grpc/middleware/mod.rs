//! Tower layers around every call: [`calls`] counts and logs, [`panic`] turns panics into INTERNAL, [`deadline`]
//! enforces time limits, [`error_form`] converts tonic's errors, [`readiness`] refuses calls before the database
//! is migrated and while the server drains. `server/services.rs` puts them in order.

pub(super) mod body;
mod calls;
mod deadline;
mod error_form;
mod methods;
mod panic;
mod readiness;
mod request_id;

pub use calls::CallLayer;
pub use deadline::DeadlineLayer;
pub use error_form::ErrorLayer;
pub use panic::PanicLayer;
pub use readiness::ReadyLayer;
