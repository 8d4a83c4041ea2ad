//! The ingest stream of an import, and the meaning of its replies.

use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status, Streaming};
use tonic_types::{RpcStatusExt as _, StatusExt as _, pb as rpc};

use super::super::call::{event_client, session_client};
use super::super::client::Connection;
use super::deletions::Deletions;
use super::fault::{Fault, bad_fields};
use super::tally::Outcome;
use crate::grpc::pb::event_service_client::EventServiceClient;
use crate::grpc::pb::ingest_events_response::Result as Item;
use crate::grpc::pb::session_service_client::SessionServiceClient;
use crate::grpc::pb::{
    CreateEventRequest, CreateOutcome, GetEventRequest, IngestEventsRequest, IngestEventsResponse,
    UpdateSessionRequest,
};

/// A connection that has at most one open stream.
pub(super) struct Ingest {
    events: EventServiceClient<Connection>,
    sessions: SessionServiceClient<Connection>,
    stream: Option<Stream>,
}

struct Stream {
    /// Unbounded, because the budget of the readers bounds what is sent.
    requests: mpsc::UnboundedSender<IngestEventsRequest>,
    replies: Streaming<IngestEventsResponse>,
}

/// The meaning of a reply.
pub(super) enum Answer {
    Final(Outcome),
    /// The event is stored under this id, now or earlier.
    Stored(Outcome, String),
    /// The event was not stored for a reason that passes.
    Retry(Status),
    /// No other event of this import can be stored either.
    Fatal(Status),
}

impl Ingest {
    pub(super) fn new(connection: Connection) -> Self {
        Self {
            events: event_client(connection.clone()),
            sessions: session_client(connection),
            stream: None,
        }
    }

    /// Opens a new stream in place of the last.
    pub(super) async fn open(&mut self) -> Result<(), Status> {
        self.close();
        let (requests, outgoing) = mpsc::unbounded_channel();
        let outgoing = UnboundedReceiverStream::new(outgoing);
        let replies = self.events.ingest_events(outgoing).await?.into_inner();
        self.stream = Some(Stream { requests, replies });
        Ok(())
    }

    pub(super) fn close(&mut self) {
        self.stream = None;
    }

    /// Sends an event. If the stream has ended, its end is the next reply.
    pub(super) fn send(&self, request: CreateEventRequest) {
        let item = IngestEventsRequest {
            request_id: String::new(),
            create: Some(request),
        };
        if let Some(stream) = &self.stream {
            let _ = stream.requests.send(item);
        }
    }

    /// Returns whether an event is stored with this type, content and session, at whatever time.
    pub(super) async fn is_stored(&mut self, event_id: String, event: &CreateEventRequest) -> bool {
        let request = GetEventRequest {
            event_id,
            spirit_id: Some(event.spirit_id.clone()),
            ..GetEventRequest::default()
        };
        let stored = self
            .events
            .get_event(request)
            .await
            .map(|reply| reply.into_inner().event);
        let Ok(Some(stored)) = stored else {
            return false;
        };
        stored.event_type.as_ref() == Some(&event.event_type)
            && stored.content == event.content
            && stored.session_id == event.session_id
    }

    /// Sets properties of a session.
    pub(super) async fn update_session(&mut self, request: UpdateSessionRequest) -> Result<(), Status> {
        self.sessions.update_session(request).await.map(drop)
    }

    /// Returns soft deletes of events of the spirit, on the same connection.
    pub(super) fn deletions(&self, spirit_id: String) -> Deletions {
        Deletions::new(self.events.clone(), spirit_id)
    }

    /// Returns the next reply. Cancel safe.
    pub(super) async fn reply(&mut self) -> Result<IngestEventsResponse, Status> {
        let ended = || Status::unavailable("the stream has ended");
        let stream = self.stream.as_mut().ok_or_else(ended)?;
        stream.replies.message().await?.ok_or_else(ended)
    }
}

/// Returns the id of the event that has the dedupe key of another one.
pub(super) fn different_event(response: &IngestEventsResponse) -> Option<String> {
    match &response.result {
        Some(Item::Receipt(receipt)) if receipt.outcome() == CreateOutcome::DuplicateDifferent => {
            Some(receipt.event_id.clone())
        }
        _ => None,
    }
}

/// Returns the meaning of a reply to the event with this dedupe key.
pub(super) fn answer(response: IngestEventsResponse, dedupe_key: Option<&str>) -> Answer {
    match response.result {
        Some(Item::Receipt(receipt)) => match receipt.outcome() {
            CreateOutcome::Created | CreateOutcome::Unspecified => {
                Answer::Stored(Outcome::Created, receipt.event_id)
            }
            CreateOutcome::Duplicate => Answer::Stored(Outcome::Duplicate, receipt.event_id),
            CreateOutcome::DuplicateDifferent => {
                Answer::Final(Outcome::Different(different(dedupe_key, &receipt.event_id)))
            }
        },
        Some(Item::Error(error)) => refusal(error, dedupe_key),
        None => Answer::Final(Outcome::Bad(Fault::new(
            "no answer",
            "the server gave no result for this line",
        ))),
    }
}

fn refusal(error: rpc::Status, dedupe_key: Option<&str>) -> Answer {
    let code = Code::from_i32(error.code);
    match code {
        Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted => {
            Answer::Retry(Status::new(code, error.message))
        }
        Code::Unauthenticated | Code::PermissionDenied | Code::NotFound => {
            Answer::Fatal(Status::new(code, error.message))
        }
        Code::AlreadyExists => taken(&error, dedupe_key),
        _ => Answer::Final(Outcome::Bad(fault(&error))),
    }
}

/// Returns the answer to an event with `ON_DUPLICATE_REJECT` whose dedupe key is taken.
fn taken(error: &rpc::Status, dedupe_key: Option<&str>) -> Answer {
    let metadata = error
        .get_details_error_info()
        .map(|info| info.metadata)
        .unwrap_or_default();
    match metadata.get("existing_event_id") {
        Some(existing)
            if metadata
                .get("different")
                .is_some_and(|different| different == "false") =>
        {
            Answer::Stored(Outcome::Duplicate, existing.clone())
        }
        Some(existing) => Answer::Final(Outcome::Different(different(dedupe_key, existing))),
        None => Answer::Final(Outcome::Bad(fault(error))),
    }
}

fn different(dedupe_key: Option<&str>, existing: &str) -> Fault {
    let key = dedupe_key.map_or_else(String::new, |key| format!(" \"{key}\""));
    Fault::new(
        "different",
        format!("not stored: its dedupe key{key} is taken by event {existing}, which differs from it"),
    )
    .of_event(existing)
}

/// Returns the fault of a refused event. Field paths lack the prefix `create.` of the stream's items.
fn fault(error: &rpc::Status) -> Fault {
    let Some(bad_request) = error.get_details_bad_request() else {
        let reason = error.get_details_error_info().map(|info| info.reason);
        return Fault::new(reason.unwrap_or_default(), error.message.clone());
    };
    let violations = bad_request.field_violations.into_iter().map(|violation| {
        let field = violation
            .field
            .strip_prefix("create.")
            .unwrap_or(&violation.field);
        (field.to_owned(), violation.description)
    });
    bad_fields(violations)
}

/// Returns the fault of a session that the server refused.
pub(super) fn session_fault(status: &Status) -> Fault {
    let violations = status
        .get_details_bad_request()
        .map(|details| details.field_violations)
        .unwrap_or_default();
    if violations.is_empty() {
        return Fault::new("bad session", status.message());
    }
    bad_fields(
        violations
            .into_iter()
            .map(|violation| (violation.field, violation.description)),
    )
}

/// Returns the fault of the first unanswered event if the stream ended because of it.
pub(super) fn message_fault(status: &Status) -> Option<Fault> {
    let reason = status.get_details_error_info()?.reason;
    let is_message = matches!(reason.as_str(), "MESSAGE_TOO_LARGE" | "UNDECODABLE");
    is_message.then(|| Fault::new(reason, status.message()))
}
