//! A call of every RPC on behalf of a key.

use elephantasm_events::grpc::pb;
use elephantasm_events::grpc::pb::{
    CountEventsRequest, CountSpiritsRequest, CreateSpiritRequest, GetEventRequest, GetSessionRequest,
    GetSpiritRequest, IngestEventsRequest, ListEventChangesRequest, ListSessionsRequest, ListSpiritsRequest,
    RestoreEventRequest, RestoreEventsRequest, RestoreSpiritRequest, SoftDeleteEventRequest,
    SoftDeleteEventsRequest, SoftDeleteSpiritRequest, UpdateEventRequest, UpdateSessionRequest,
    UpdateSpiritRequest, WatchChangesRequest, WatchEventsRequest, WatchStart, ingest_events_response,
    watch_changes_request, watch_events_request,
};
use prost::Message as _;
use tonic::{Response, Status, Streaming};

use crate::support::access::Caller;
use crate::support::builders::{at, event, list, stream};

/// The spirit and the event that a call names.
#[derive(Clone, Debug)]
pub struct Subject {
    pub spirit_id: String,
    pub event_id: String,
}

pub async fn reply<M>(call: impl Future<Output = Result<Response<M>, Status>>) -> Result<M, Status> {
    Ok(call.await?.into_inner())
}

/// Returns true if a stream sends a message before it ends.
pub async fn sends_a_message<M>(stream: Result<Response<Streaming<M>>, Status>) -> Result<bool, Status> {
    Ok(stream?.into_inner().message().await?.is_some())
}

/// Calls an RPC for the subject; true if the reply contains anything.
pub async fn call(rpc: &str, caller: &Caller, subject: &Subject) -> Result<bool, Status> {
    match rpc {
        "EventService/CreateEvent" | "EventService/BatchCreateEvents" | "EventService/IngestEvents" => {
            call_create(rpc, caller, &subject.spirit_id).await
        }
        "AccessService/GetAccess" => {
            let access = reply(caller.access().get_access(pb::GetAccessRequest {})).await?;
            Ok(access.key_prefix.as_ref() == Some(&caller.key.prefix))
        }
        _ if rpc.starts_with("EventService/") => call_event_rpc(rpc, caller, subject).await,
        _ if rpc.starts_with("PurgeService/") => call_purge_rpc(rpc, caller, subject).await,
        _ if rpc.starts_with("SessionService/") => call_session_rpc(rpc, caller, subject).await,
        _ => call_spirit_rpc(rpc, caller, subject).await,
    }
}

async fn call_create(rpc: &str, caller: &Caller, spirit_id: &str) -> Result<bool, Status> {
    let mut events = caller.events();
    Ok(match rpc {
        "EventService/CreateEvent" => reply(events.create_event(event(spirit_id)))
            .await?
            .event
            .is_some(),
        "EventService/BatchCreateEvents" => {
            let requests = vec![event(spirit_id)];
            let request = pb::BatchCreateEventsRequest {
                requests,
                ..Default::default()
            };
            !reply(events.batch_create_events(request))
                .await?
                .results
                .is_empty()
        }
        "EventService/IngestEvents" => {
            let create = Some(event(spirit_id));
            let item = IngestEventsRequest {
                create,
                ..Default::default()
            };
            let mut replies = reply(events.ingest_events(tokio_stream::once(item))).await?;
            match replies.message().await?.unwrap().result.unwrap() {
                ingest_events_response::Result::Receipt(_) => true,
                ingest_events_response::Result::Error(error) => {
                    let details = error.encode_to_vec().into();
                    return Err(Status::with_details(error.code.into(), error.message, details));
                }
            }
        }
        unknown => not_covered(unknown),
    })
}

async fn call_event_rpc(rpc: &str, caller: &Caller, subject: &Subject) -> Result<bool, Status> {
    let mut events = caller.events();
    let Subject { spirit_id, event_id } = subject.clone();
    Ok(match rpc {
        "EventService/GetEvent" => {
            let request = GetEventRequest {
                event_id,
                ..Default::default()
            };
            reply(events.get_event(request)).await?.event.is_some()
        }
        "EventService/ListEvents" => !reply(events.list_events(list(&spirit_id)))
            .await?
            .events
            .is_empty(),
        "EventService/StreamSessionEvents" => {
            sends_a_message(events.stream_session_events(stream(&spirit_id, "s")).await).await?
        }
        "EventService/WatchEvents" => {
            let start = watch_events_request::Start::StartAt(WatchStart::FromBeginning.into());
            let request = WatchEventsRequest {
                spirit_id,
                start: Some(start),
                ..Default::default()
            };
            sends_a_message(events.watch_events(request).await).await?
        }
        "EventService/UpdateEvent" => {
            let role = Some("edited".to_owned());
            let request = UpdateEventRequest {
                event_id,
                role,
                ..Default::default()
            };
            reply(events.update_event(request)).await?.event.is_some()
        }
        "EventService/SoftDeleteEvent" => {
            let request = SoftDeleteEventRequest {
                event_id,
                ..Default::default()
            };
            reply(events.soft_delete_event(request)).await?.event.is_some()
        }
        "EventService/RestoreEvent" => {
            let request = RestoreEventRequest {
                event_id,
                ..Default::default()
            };
            reply(events.restore_event(request)).await?.event.is_some()
        }
        "EventService/CountEvents" => {
            let request = CountEventsRequest {
                spirit_id,
                ..Default::default()
            };
            reply(events.count_events(request)).await?.count > 0
        }
        "EventService/SoftDeleteEvents" => {
            let request = SoftDeleteEventsRequest {
                spirit_id,
                session_id: Some("s".to_owned()),
                ..Default::default()
            };
            reply(events.soft_delete_events(request)).await?;
            true
        }
        "EventService/RestoreEvents" => {
            let request = RestoreEventsRequest {
                spirit_id,
                deleted_at: Some(at(1)),
                ..Default::default()
            };
            reply(events.restore_events(request)).await?;
            true
        }
        "EventService/ListEventChanges" => {
            let request = ListEventChangesRequest {
                event_id,
                ..Default::default()
            };
            !reply(events.list_event_changes(request))
                .await?
                .changes
                .is_empty()
        }
        "EventService/WatchChanges" => {
            let start = watch_changes_request::Start::StartAt(WatchStart::FromBeginning.into());
            let request = WatchChangesRequest {
                spirit_id,
                start: Some(start),
            };
            sends_a_message(events.watch_changes(request).await).await?
        }
        unknown => not_covered(unknown),
    })
}

async fn call_purge_rpc(rpc: &str, caller: &Caller, subject: &Subject) -> Result<bool, Status> {
    let (mut purges, mut spirits) = (caller.purges(), caller.spirits());
    let spirit_id = subject.spirit_id.clone();
    Ok(match rpc {
        "PurgeService/PurgeEvents" => {
            let request = pb::PurgeEventsRequest {
                spirit_id,
                event_ids: vec![subject.event_id.clone()],
                ..Default::default()
            };
            sends_a_message(purges.purge_events(request).await).await?
        }
        "PurgeService/PurgeSpirit" => {
            let request = SoftDeleteSpiritRequest {
                spirit_id: spirit_id.clone(),
                ..Default::default()
            };
            // Refused to a caller who may not purge the spirit either.
            let deleted = spirits.soft_delete_spirit(request).await;
            let request = pb::PurgeSpiritRequest {
                spirit_id,
                ..Default::default()
            };
            let purged = sends_a_message(purges.purge_spirit(request).await).await?;
            purged && deleted.is_ok()
        }
        "PurgeService/ListPurges" => {
            let request = pb::PurgeEventsRequest {
                spirit_id: spirit_id.clone(),
                all: Some(true),
                ..Default::default()
            };
            // Leaves a purge to be listed, if the caller may.
            let purge = sends_a_message(purges.purge_events(request).await).await;
            let request = pb::ListPurgesRequest {
                spirit_id: Some(spirit_id),
                ..Default::default()
            };
            let listed = reply(purges.list_purges(request)).await?.purges;
            !listed.is_empty() && purge.is_ok()
        }
        unknown => not_covered(unknown),
    })
}

async fn call_session_rpc(rpc: &str, caller: &Caller, subject: &Subject) -> Result<bool, Status> {
    let mut sessions = caller.sessions();
    let (spirit_id, session_id) = (subject.spirit_id.clone(), "s".to_owned());
    Ok(match rpc {
        "SessionService/ListSessions" => {
            let request = ListSessionsRequest {
                spirit_id,
                ..Default::default()
            };
            !reply(sessions.list_sessions(request)).await?.sessions.is_empty()
        }
        "SessionService/GetSession" => {
            let request = GetSessionRequest {
                spirit_id,
                session_id,
            };
            reply(sessions.get_session(request)).await?.session.is_some()
        }
        "SessionService/UpdateSession" => {
            let request = UpdateSessionRequest {
                spirit_id,
                session_id,
                title: Some("edited".to_owned()),
                ..Default::default()
            };
            reply(sessions.update_session(request)).await?.session.is_some()
        }
        unknown => not_covered(unknown),
    })
}

async fn call_spirit_rpc(rpc: &str, caller: &Caller, subject: &Subject) -> Result<bool, Status> {
    let mut spirits = caller.spirits();
    let spirit_id = subject.spirit_id.clone();
    Ok(match rpc {
        "SpiritService/CreateSpirit" => {
            let request = CreateSpiritRequest {
                name: "new".to_owned(),
                ..Default::default()
            };
            reply(spirits.create_spirit(request)).await?.spirit.is_some()
        }
        "SpiritService/GetSpirit" => {
            let request = GetSpiritRequest {
                spirit_id,
                ..Default::default()
            };
            reply(spirits.get_spirit(request)).await?.spirit.is_some()
        }
        "SpiritService/ListSpirits" => {
            let found = reply(spirits.list_spirits(ListSpiritsRequest::default()))
                .await?
                .spirits;
            found.iter().any(|spirit| spirit.id == spirit_id)
        }
        "SpiritService/CountSpirits" => {
            // More spirits exist; a key scoped to one of them must count exactly one.
            reply(spirits.count_spirits(CountSpiritsRequest::default()))
                .await?
                .count
                == 1
        }
        "SpiritService/UpdateSpirit" => {
            let name = Some("edited".to_owned());
            let request = UpdateSpiritRequest {
                spirit_id,
                name,
                ..Default::default()
            };
            reply(spirits.update_spirit(request)).await?.spirit.is_some()
        }
        "SpiritService/SoftDeleteSpirit" => {
            let request = SoftDeleteSpiritRequest {
                spirit_id,
                ..Default::default()
            };
            reply(spirits.soft_delete_spirit(request)).await?.spirit.is_some()
        }
        "SpiritService/RestoreSpirit" => {
            let request = RestoreSpiritRequest {
                spirit_id,
                ..Default::default()
            };
            reply(spirits.restore_spirit(request)).await?.spirit.is_some()
        }
        unknown => not_covered(unknown),
    })
}

fn not_covered(rpc: &str) -> ! {
    panic!("{rpc} is not covered by this test: add a call and decide who may make it")
}
