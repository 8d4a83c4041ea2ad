//! The place to which the events of an import go: a server, or nowhere in a dry run.

use tonic::Status;
use uuid::Uuid;

use super::fault::Fault;
use super::ingest::Ingest;
use super::tally::Outcome;
use crate::domain::limits::Limits;
use crate::grpc::pb::{CreateEventRequest, IngestEventsResponse, UpdateSessionRequest};
use crate::grpc::{check_create, check_session_update};

/// The place to which events go.
pub(super) enum Target {
    Server(Box<Ingest>),
    /// Nowhere: events are checked against the default limits.
    DryRun(Limits),
}

impl Target {
    /// Returns the next reply of the server. Cancel safe.
    pub(super) async fn reply(&mut self) -> Result<IngestEventsResponse, Status> {
        match self {
            Self::Server(ingest) => ingest.reply().await,
            Self::DryRun(_) => std::future::pending().await,
        }
    }
}

/// Returns the outcome of an event in a dry run.
pub(super) fn check(mut request: CreateEventRequest, limits: &Limits) -> Outcome {
    set_spirit(&mut request.spirit_id);
    match check_create(request, limits) {
        Ok(()) => Outcome::Created,
        Err(invalid) => Outcome::Bad(invalid.into()),
    }
}

/// Returns the fault of a change of a session in a dry run.
pub(super) fn check_session(mut request: UpdateSessionRequest, limits: &Limits) -> Result<(), Fault> {
    set_spirit(&mut request.spirit_id);
    Ok(check_session_update(request, limits)?)
}

/// Sets the id of a spirit that is given by name, which a dry run does not look up.
fn set_spirit(spirit_id: &mut String) {
    if spirit_id.is_empty() {
        *spirit_id = Uuid::nil().to_string();
    }
}
