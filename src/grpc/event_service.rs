//! The RPCs of `EventService`. A handler converts the request, calls the store and converts the result.

use tonic::{Request, Response, Status, Streaming};

use super::auth::{editor, reply_in_scope, spirit_scope};
use super::consistency::consistency;
use super::context::Context;
use super::encoders::{ChangeEncoder, SessionEncoder, WatchEncoder};
use super::ingest::IngestStream;
use super::json_path::with_checked_path;
use super::streams::{ChangeStream, SessionStream, WatchStream};
use super::{batch, convert, pb};
use crate::domain::access::{Editor, SpiritScope};
use crate::domain::edit::{EventEdit, EventTarget};
use crate::domain::event::{Created, View};
use crate::domain::refusal::Refusal;
use crate::store::{Consistency, Pages};

/// Implements `EventService`.
#[derive(Clone)]
pub struct EventApi(pub Context);

#[tonic::async_trait]
impl pb::event_service_server::EventService for EventApi {
    async fn create_event(
        &self,
        request: Request<pb::CreateEventRequest>,
    ) -> Result<Response<pb::CreateEventResponse>, Status> {
        let scope = spirit_scope(&request);
        let event = convert::new_event(request.into_inner(), String::new(), &self.0.limits)?;
        scope.check(event.spirit_id)?;
        let view = event.reply_view;
        let created = self.0.store.write.create(event).await?;
        self.create_response(created, view).await
    }

    async fn batch_create_events(
        &self,
        request: Request<pb::BatchCreateEventsRequest>,
    ) -> Result<Response<pb::BatchCreateEventsResponse>, Status> {
        let scope = spirit_scope(&request);
        let batch = convert::batch(request.into_inner(), &self.0.limits)?;
        let response = batch::create(&self.0.store, batch, &scope).await?;
        Ok(Response::new(response))
    }

    type IngestEventsStream = IngestStream;

    async fn ingest_events(
        &self,
        request: Request<Streaming<pb::IngestEventsRequest>>,
    ) -> Result<Response<IngestStream>, Status> {
        let scope = spirit_scope(&request);
        let stream = IngestStream::new(request.into_inner(), scope, self.0.clone());
        Ok(Response::new(stream))
    }

    async fn get_event(
        &self,
        request: Request<pb::GetEventRequest>,
    ) -> Result<Response<pb::GetEventResponse>, Status> {
        let scope = spirit_scope(&request);
        let mut reader = self.0.store.read(consistency(&request)?);
        let (id, scope, include_deleted, cut) = convert::get_event(request.into_inner(), &scope)?;
        let event = match cut {
            None => reader.get_event(id, &scope, include_deleted).await?,
            Some(max) => reader.get_cut_event(id, &scope, include_deleted, max).await?,
        };
        let event = event.ok_or(Refusal::EventNotFound(id))?;
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
        let request = request.into_inner();
        let path = convert::unchecked_path(request.filter.as_ref());
        let converted = convert::list(request, &self.0.limits);
        let (query, hash) = with_checked_path(&mut reader, path, converted).await?;
        reply_in_scope(&scope, query.selection.spirit_id, async {
            let page = reader.list_events(&query).await?;
            Ok(convert::event_page(page, hash))
        })
        .await
    }

    type StreamSessionEventsStream = SessionStream;

    async fn stream_session_events(
        &self,
        request: Request<pb::StreamSessionEventsRequest>,
    ) -> Result<Response<SessionStream>, Status> {
        let scope = spirit_scope(&request);
        let consistency = consistency(&request)?;
        let request = request.into_inner();
        let path = convert::unchecked_path(request.filter.as_ref());
        let converted = convert::replay(request, &self.0.limits);
        let mut reader = self.0.store.read(consistency);
        let (replay, hash) = with_checked_path(&mut reader, path, converted).await?;
        let encoder = SessionEncoder::new(hash, replay.start);
        let spirit_id = replay.selection.spirit_id;
        if replay.follow {
            scope.check(spirit_id)?;
        }
        let pages = if scope.holds(spirit_id) {
            self.0.store.live.replay(replay, consistency).await?
        } else {
            Pages::none()
        };
        let stream = SessionStream::new(encoder, pages, self.0.shutdown.clone());
        Ok(Response::new(stream))
    }

    type WatchEventsStream = WatchStream;

    async fn watch_events(
        &self,
        request: Request<pb::WatchEventsRequest>,
    ) -> Result<Response<WatchStream>, Status> {
        let scope = spirit_scope(&request);
        consistency(&request)?; // checked only: live events are always read from the primary
        let request = request.into_inner();
        let path = convert::unchecked_path(request.filter.as_ref());
        let converted = convert::watch(request, &self.0.limits);
        let mut reader = self.0.store.read(Consistency::Strong);
        let watch = with_checked_path(&mut reader, path, converted).await?;
        scope.check(watch.selection.spirit_id)?;
        let (start, pages) = self.0.store.live.watch(watch).await?;
        let stream = WatchStream::new(WatchEncoder::new(start), pages, self.0.shutdown.clone());
        Ok(Response::new(stream))
    }

    async fn update_event(
        &self,
        request: Request<pb::UpdateEventRequest>,
    ) -> Result<Response<pb::UpdateEventResponse>, Status> {
        let editor = editor(&request);
        let (target, edit) = convert::event_edit(request.into_inner(), editor, &self.0.limits)?;
        let event = self.edit(target, &edit).await?;
        Ok(Response::new(pb::UpdateEventResponse { event }))
    }

    async fn soft_delete_event(
        &self,
        request: Request<pb::SoftDeleteEventRequest>,
    ) -> Result<Response<pb::SoftDeleteEventResponse>, Status> {
        let editor = editor(&request);
        let target = convert::soft_delete_event(request.into_inner(), editor)?;
        let event = self.edit(target, &EventEdit::deletion(true)).await?;
        Ok(Response::new(pb::SoftDeleteEventResponse { event }))
    }

    async fn restore_event(
        &self,
        request: Request<pb::RestoreEventRequest>,
    ) -> Result<Response<pb::RestoreEventResponse>, Status> {
        let editor = editor(&request);
        let target = convert::restore_event(request.into_inner(), editor)?;
        let event = self.edit(target, &EventEdit::deletion(false)).await?;
        Ok(Response::new(pb::RestoreEventResponse { event }))
    }

    async fn soft_delete_events(
        &self,
        request: Request<pb::SoftDeleteEventsRequest>,
    ) -> Result<Response<pb::SoftDeleteEventsResponse>, Status> {
        let Editor { scope, key_prefix } = editor(&request);
        let request = request.into_inner();
        let path = convert::unchecked_path(request.filter.as_ref());
        let converted = convert::deletion(request, key_prefix, &self.0.limits);
        let mut reader = self.0.store.read(Consistency::Strong);
        let deletion = with_checked_path(&mut reader, path, converted).await?;
        scope.check(deletion.selection.spirit_id)?;
        let deleted = self.0.store.write.delete_events(deletion).await?;
        Ok(Response::new(convert::deletion_response(deleted)))
    }

    async fn restore_events(
        &self,
        request: Request<pb::RestoreEventsRequest>,
    ) -> Result<Response<pb::RestoreEventsResponse>, Status> {
        let Editor { scope, key_prefix } = editor(&request);
        let restoration = convert::restoration(request.into_inner(), key_prefix)?;
        scope.check(restoration.spirit_id)?;
        let restored_count = self.0.store.write.restore_events(restoration).await?;
        Ok(Response::new(pb::RestoreEventsResponse { restored_count }))
    }

    async fn count_events(
        &self,
        request: Request<pb::CountEventsRequest>,
    ) -> Result<Response<pb::CountEventsResponse>, Status> {
        let scope = spirit_scope(&request);
        let mut reader = self.0.store.read(consistency(&request)?);
        let request = request.into_inner();
        let path = convert::unchecked_path(request.filter.as_ref());
        let converted = convert::count(request, &self.0.limits);
        let selection = with_checked_path(&mut reader, path, converted).await?;
        reply_in_scope(&scope, selection.spirit_id, async {
            let count = reader.count_events(&selection).await?;
            Ok(pb::CountEventsResponse { count })
        })
        .await
    }

    async fn list_event_changes(
        &self,
        request: Request<pb::ListEventChangesRequest>,
    ) -> Result<Response<pb::ListEventChangesResponse>, Status> {
        let scope = spirit_scope(&request);
        let mut reader = self.0.store.read(consistency(&request)?);
        let (query, hash) = convert::list_event_changes(request.into_inner(), &scope)?;
        let page = reader.list_event_changes(query).await?;
        Ok(Response::new(convert::change_page(page, hash)))
    }

    type WatchChangesStream = ChangeStream;

    async fn watch_changes(
        &self,
        request: Request<pb::WatchChangesRequest>,
    ) -> Result<Response<ChangeStream>, Status> {
        let scope = spirit_scope(&request);
        consistency(&request)?; // checked only: live changes are always read from the primary
        let watch = convert::watch_changes(request.into_inner())?;
        scope.check(watch.spirit_id)?;
        let (start, pages) = self.0.store.live.watch_changes(watch).await?;
        let stream = ChangeStream::new(ChangeEncoder::new(start), pages, self.0.shutdown.clone());
        Ok(Response::new(stream))
    }
}

impl EventApi {
    /// Edits an event and returns it as edited.
    async fn edit(&self, target: EventTarget, edit: &EventEdit) -> Result<Option<pb::Event>, Status> {
        let event = self.0.store.write.edit_event(target, edit).await?;
        Ok(Some(convert::event(event)))
    }

    /// Returns the reply to a create. Reads the existing event from the primary if the dedupe key was taken.
    async fn create_response(
        &self,
        created: Created,
        view: View,
    ) -> Result<Response<pb::CreateEventResponse>, Status> {
        let outcome = convert::outcome(&created);
        let event = match created {
            Created::New(event) if view == View::Basic => event.into_basic(),
            Created::New(event) => *event,
            Created::Duplicate { id, spirit_id, .. } => {
                let mut reader = self.0.store.read(Consistency::Strong);
                let stored = if view == View::Basic {
                    reader.get_events_basic(&[id], &[spirit_id]).await?.pop()
                } else {
                    reader.get_event(id, &SpiritScope::One(spirit_id), true).await?
                };
                stored.ok_or(Refusal::EventNotFound(id))?
            }
        };
        Ok(Response::new(convert::create_response(event, outcome)))
    }
}
