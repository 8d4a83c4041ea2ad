//! The place to which the events of an import go: a server, or nowhere in a dry run.

use tonic::Status;
use uuid::Uuid;

use super::ingest::Ingest;
use super::tally::Outcome;
use crate::domain::limits::Limits;
use crate::grpc::check_create;
use crate::grpc::pb::{CreateEventRequest, IngestEventsResponse};

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
    if request.spirit_id.is_empty() {
        request.spirit_id = Uuid::nil().to_string(); // of a spirit that has a name only
    }
    match check_create(request, limits) {
        Ok(()) => Outcome::Created,
        Err(invalid) => Outcome::Bad(invalid.into()),
    }
}
