//! `EventService`: convert, one call, convert.

use prost::Message as _;
use tonic::{Request, Response, Status, Streaming};

use super::auth::spirit_scope;
use super::consistency::consistency;
use super::ingest::IngestStream;
use super::status::ApiError;
use super::streams::{Session, SessionStream, Watch, WatchStream};
use super::{Context, convert, pb};
use crate::domain::access::SpiritScope;
use crate::domain::cursor::{SessionPlace, encode};
use crate::domain::edit::{EventEdit, EventTarget};
use crate::domain::event::{Created, Event};
use crate::domain::limits::{BATCH_BYTES_MAX, PAGE_BYTES};
use crate::domain::refusal::Refusal;
use crate::store::{Consistency, Pages};

/// The service.
#[derive(Clone)]
pub struct EventApi(pub Context);

#[tonic::async_trait]
impl pb::event_service_server::EventService for EventApi {
    async fn create_event(
        &self,
        request: Request<pb::CreateEventRequest>,
    ) -> Result<Response<pb::CreateEventResponse>, Status> {
        let scope = spirit_scope(&request);
        let event = convert::new_event(request.into_inner(), String::new(), &self.0.limits)
            .map_err(ApiError::from)?;
        scope.check(event.spirit_id).map_err(ApiError::from)?;
        let created = self.0.store.write.create(event).await.map_err(ApiError::from)?;
        Ok(Response::new(self.created(created).await?))
    }

    async fn batch_create_events(
        &self,
        request: Request<pb::BatchCreateEventsRequest>,
    ) -> Result<Response<pb::BatchCreateEventsResponse>, Status> {
        let scope = spirit_scope(&request);
        let request = request.into_inner();
        let bytes = request.encoded_len();
        if bytes > BATCH_BYTES_MAX {
            let message =
                format!("a batch must have at most {BATCH_BYTES_MAX} bytes, has {bytes}; send it in parts");
            return Err(ApiError::MessageTooLarge(message).into());
        }
        let batch = convert::batch(request, &self.0.limits).map_err(ApiError::from)?;
        let results = self.create_batch(batch, &scope).await?;
        Ok(Response::new(pb::BatchCreateEventsResponse { results }))
    }

    type IngestEventsStream = IngestStream;

    async fn ingest_events(
        &self,
        request: Request<Streaming<pb::IngestEventsRequest>>,
    ) -> Result<Response<IngestStream>, Status> {
        let scope = spirit_scope(&request);
        Ok(Response::new(IngestStream::new(
            request.into_inner(),
            scope,
            self.0.clone(),
        )))
    }

    async fn get_event(
        &self,
        request: Request<pb::GetEventRequest>,
    ) -> Result<Response<pb::GetEventResponse>, Status> {
        let scope = spirit_scope(&request);
        let mut reader = self.0.store.read(consistency(&request)?);
        let (id, scope, include_deleted) =
            convert::get_event(request.into_inner(), &scope).map_err(ApiError::from)?;
        let event = reader
            .get_event(id, &scope, include_deleted)
            .await
            .map_err(ApiError::from)?;
        let event = event.ok_or(ApiError::from(Refusal::EventNotFound(id)))?;
        Ok(Response::new(pb::GetEventResponse {
            event: Some(convert::event(event)),
        }))
    }

    async fn list_events(
        &self,
        request: Request<pb::ListEventsRequest>,
    ) -> Result<Response<pb::ListEventsResponse>, Status> {
        let scope = spirit_scope(&request);
        let mut reader = self.0.store.read(consistency(&request)?);
        let (query, hash) = convert::list(request.into_inner(), &self.0.limits)?;
        if !scope.holds(query.selection.spirit_id) {
            return Ok(Response::new(pb::ListEventsResponse::default()));
        }
        let page = reader.list_events(&query).await.map_err(ApiError::from)?;
        let positions: Vec<_> = page.events.iter().map(Event::position).collect();
        let events = page.events.into_iter().map(convert::event);
        let (events, cut) = within_budget(events);
        let last = events.len().checked_sub(1).and_then(|last| positions.get(last));
        let next_page_token = match last {
            Some(last) if cut || page.more => encode(hash, last),
            _ => String::new(),
        };
        Ok(Response::new(pb::ListEventsResponse {
            events,
            next_page_token,
        }))
    }

    type StreamSessionEventsStream = SessionStream;

    async fn stream_session_events(
        &self,
        request: Request<pb::StreamSessionEventsRequest>,
    ) -> Result<Response<SessionStream>, Status> {
        let scope = spirit_scope(&request);
        let consistency = consistency(&request)?;
        let (replay, hash) = convert::replay(request.into_inner(), &self.0.limits)?;
        let session = Session::new(hash, replay.start);
        let pages = if scope.holds(replay.selection.spirit_id) {
            self.0
                .store
                .live
                .replay(replay, consistency)
                .await
                .map_err(ApiError::from)?
        } else if replay.follow {
            return Err(ApiError::from(Refusal::SpiritNotFound(replay.selection.spirit_id)).into());
        } else {
            Pages::none()
        };
        Ok(Response::new(SessionStream::new(
            session,
            pages,
            self.0.shutdown.clone(),
        )))
    }

    type WatchEventsStream = WatchStream;

    async fn watch_events(
        &self,
        request: Request<pb::WatchEventsRequest>,
    ) -> Result<Response<WatchStream>, Status> {
        let scope = spirit_scope(&request);
        // Asked for or not: what is live is read where it is written.
        consistency(&request)?;
        let watch = convert::watch(request.into_inner(), &self.0.limits).map_err(ApiError::from)?;
        scope.check(watch.selection.spirit_id).map_err(ApiError::from)?;
        let (start, pages) = self.0.store.live.watch(watch).await.map_err(ApiError::from)?;
        Ok(Response::new(WatchStream::new(
            Watch(start),
            pages,
            self.0.shutdown.clone(),
        )))
    }

    async fn update_event(
        &self,
        request: Request<pb::UpdateEventRequest>,
    ) -> Result<Response<pb::UpdateEventResponse>, Status> {
        let scope = spirit_scope(&request);
        let (target, edit) =
            convert::event_edit(request.into_inner(), &scope, &self.0.limits).map_err(ApiError::from)?;
        let event = self.edited(target, &edit).await?;
        Ok(Response::new(pb::UpdateEventResponse { event }))
    }

    async fn soft_delete_event(
        &self,
        request: Request<pb::SoftDeleteEventRequest>,
    ) -> Result<Response<pb::SoftDeleteEventResponse>, Status> {
        let scope = spirit_scope(&request);
        let pb::SoftDeleteEventRequest {
            event_id,
            spirit_id,
            expected_revision,
        } = request.into_inner();
        let target =
            convert::deletion(&event_id, spirit_id, expected_revision, &scope).map_err(ApiError::from)?;
        let event = self.edited(target, &EventEdit::deletion(true)).await?;
        Ok(Response::new(pb::SoftDeleteEventResponse { event }))
    }

    async fn restore_event(
        &self,
        request: Request<pb::RestoreEventRequest>,
    ) -> Result<Response<pb::RestoreEventResponse>, Status> {
        let scope = spirit_scope(&request);
        let pb::RestoreEventRequest {
            event_id,
            spirit_id,
            expected_revision,
        } = request.into_inner();
        let target =
            convert::deletion(&event_id, spirit_id, expected_revision, &scope).map_err(ApiError::from)?;
        let event = self.edited(target, &EventEdit::deletion(false)).await?;
        Ok(Response::new(pb::RestoreEventResponse { event }))
    }

    async fn count_events(
        &self,
        request: Request<pb::CountEventsRequest>,
    ) -> Result<Response<pb::CountEventsResponse>, Status> {
        let scope = spirit_scope(&request);
        let mut reader = self.0.store.read(consistency(&request)?);
        let selection = convert::count(request.into_inner(), &self.0.limits).map_err(ApiError::from)?;
        if !scope.holds(selection.spirit_id) {
            return Ok(Response::new(pb::CountEventsResponse::default()));
        }
        let count = reader.count_events(&selection).await.map_err(ApiError::from)?;
        Ok(Response::new(pb::CountEventsResponse { count }))
    }

    async fn list_sessions(
        &self,
        request: Request<pb::ListSessionsRequest>,
    ) -> Result<Response<pb::ListSessionsResponse>, Status> {
        let mut reader = self.0.store.read(consistency(&request)?);
        let list = convert::list_sessions(request.get_ref())?;
        if !spirit_scope(&request).holds(list.spirit_id) {
            return Ok(Response::new(pb::ListSessionsResponse::default()));
        }
        let page = reader
            .list_sessions(list.spirit_id, list.after, list.size)
            .await
            .map_err(ApiError::from)?;
        let next_page_token = match page.sessions.last() {
            Some(last) if page.more => {
                let place = SessionPlace {
                    last_occurred_at: last.last_occurred_at,
                    session_id: last.session_id.clone(),
                };
                encode(list.hash, &place)
            }
            _ => String::new(),
        };
        let sessions = page
            .sessions
            .into_iter()
            .map(|session| convert::session(list.spirit_id, session))
            .collect();
        Ok(Response::new(pb::ListSessionsResponse {
            sessions,
            next_page_token,
        }))
    }
}

impl EventApi {
    /// Edits an event: as it then is.
    async fn edited(&self, target: EventTarget, edit: &EventEdit) -> Result<Option<pb::Event>, ApiError> {
        let event = self.0.store.write.edit_event(target, edit).await?;
        Ok(Some(convert::event(event)))
    }

    /// The reply to a create: the event as stored now.
    async fn created(&self, created: Created) -> Result<pb::CreateEventResponse, ApiError> {
        let outcome = convert::outcome(&created);
        let event = match created {
            Created::New(event) => *event,
            Created::Duplicate { id, spirit_id, .. } => {
                let owner = SpiritScope::One(spirit_id);
                let mut reader = self.0.store.read(Consistency::Strong);
                let stored = reader.get_event(id, &owner, true).await?;
                stored.ok_or(Refusal::EventNotFound(id))?
            }
        };
        Ok(convert::create_response(event, outcome))
    }
}

/// As many messages as a page may hold in bytes, at least one; and whether some were cut off.
pub(super) fn within_budget<M: prost::Message>(messages: impl Iterator<Item = M>) -> (Vec<M>, bool) {
    let mut bytes = 0;
    let mut kept = Vec::new();
    for message in messages {
        bytes += message.encoded_len();
        if bytes > PAGE_BYTES && !kept.is_empty() {
            return (kept, true);
        }
        kept.push(message);
    }
    (kept, false)
}
