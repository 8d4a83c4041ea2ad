//! Authorisation of every RPC: keys of every role, scoped to one spirit, call it for that spirit, for a
//! foreign spirit and for an unknown one. The RPCs are read from the descriptor set, so that an RPC added without a
//! case here fails the test.

use std::collections::BTreeMap;

use elephantasm_events::domain::access::Role;
use elephantasm_events::grpc::pb;
use elephantasm_events::grpc::pb::{
    CountEventsRequest, CountSpiritsRequest, CreateSpiritRequest, GetEventRequest, GetSpiritRequest,
    IngestEventsRequest, ListSessionsRequest, ListSpiritsRequest, RestoreEventRequest, RestoreSpiritRequest,
    SoftDeleteEventRequest, SoftDeleteSpiritRequest, UpdateEventRequest, UpdateSpiritRequest,
    WatchEventsRequest, WatchStart, ingest_events_response, watch_events_request,
};
use prost::Message as _;
use prost_types::method_options::IdempotencyLevel;
use prost_types::{FileDescriptorSet, MethodOptions};
use tonic::{Code, Response, Status, Streaming};
use tonic_types::StatusExt as _;
use uuid::Uuid;

use crate::support::access::{Caller, KeyedServer};
use crate::support::builders::{event, list, stream};

/// The spirit and the event that a call names.
#[derive(Clone, Debug)]
pub struct Subject {
    pub spirit_id: String,
    pub event_id: String,
}

/// Everything that a reply reveals to its caller, with the ids of the subject masked.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// Code, reason, and the error's message and details.
    Error(Code, String, String),
    EmptyReply,
    Reply,
}

/// An RPC of the descriptor set.
struct Rpc {
    /// Service and method.
    name: String,
    required_role: Role,
    names_event: bool,
}

fn rpcs() -> Vec<Rpc> {
    let set = FileDescriptorSet::decode(pb::FILE_DESCRIPTOR_SET).unwrap();
    let messages: Vec<_> = set.file.iter().flat_map(|file| &file.message_type).collect();
    let mut rpcs = Vec::new();
    for service in set.file.iter().flat_map(|file| &file.service) {
        for method in &service.method {
            let level = method.options.as_ref().map(MethodOptions::idempotency_level);
            let request = method.input_type().rsplit('.').next().unwrap();
            let request = messages.iter().find(|message| message.name() == request).unwrap();
            rpcs.push(Rpc {
                name: format!("{}/{}", service.name(), method.name()),
                required_role: match (level, service.name()) {
                    (Some(IdempotencyLevel::NoSideEffects), _) => Role::Reader,
                    (_, "EventService") => Role::Writer,
                    _ => Role::Admin,
                },
                names_event: request.field.iter().any(|field| field.name() == "event_id"),
            });
        }
    }
    rpcs
}

async fn reply<M>(call: impl Future<Output = Result<Response<M>, Status>>) -> Result<M, Status> {
    Ok(call.await?.into_inner())
}

/// Returns true if a stream sends a message before it ends.
pub async fn sends_a_message<M>(stream: Result<Response<Streaming<M>>, Status>) -> Result<bool, Status> {
    Ok(stream?.into_inner().message().await?.is_some())
}

/// Calls an RPC for the subject; true if the reply contains anything.
async fn call(rpc: &str, caller: &Caller, subject: &Subject) -> Result<bool, Status> {
    match rpc {
        "EventService/CreateEvent" | "EventService/BatchCreateEvents" | "EventService/IngestEvents" => {
            call_create(rpc, caller, &subject.spirit_id).await
        }
        "AccessService/GetAccess" => {
            let access = reply(caller.access().get_access(pb::GetAccessRequest {})).await?;
            Ok(access.key_prefix.as_ref() == Some(&caller.key.prefix))
        }
        _ if rpc.starts_with("EventService/") => call_event_rpc(rpc, caller, subject).await,
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
        "EventService/ListSessions" => {
            let request = ListSessionsRequest {
                spirit_id,
                ..Default::default()
            };
            !reply(events.list_sessions(request)).await?.sessions.is_empty()
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

async fn outcome(rpc: &str, caller: &Caller, subject: &Subject) -> Outcome {
    match call(rpc, caller, subject).await {
        Ok(true) => Outcome::Reply,
        Ok(false) => Outcome::EmptyReply,
        Err(status) => {
            let details = status.get_error_details();
            let metadata: BTreeMap<_, _> = details.error_info().expect("ErrorInfo").metadata.iter().collect();
            let (resource, retry) = (details.resource_info(), details.retry_info());
            let text = format!("{} {metadata:?} {resource:?} {retry:?}", status.message());
            let text = text
                .replace(&subject.spirit_id, "(spirit)")
                .replace(&subject.event_id, "(event)");
            let reason = status.get_details_error_info().expect("ErrorInfo").reason;
            Outcome::Error(status.code(), reason, text)
        }
    }
}

/// The outcome for a spirit outside the scope of a key with the required role, or the reason of its `NOT_FOUND`.
fn expected_outside_scope(rpc: &Rpc) -> Result<Outcome, &'static str> {
    match rpc.name.as_str() {
        _ if rpc.names_event => Err("EVENT_NOT_FOUND"),
        "EventService/ListEvents"
        | "EventService/StreamSessionEvents"
        | "EventService/CountEvents"
        | "EventService/ListSessions"
        | "SpiritService/ListSpirits" => Ok(Outcome::EmptyReply),
        // Their requests name no spirit: the reply is that of the key, whatever the subject.
        "SpiritService/CountSpirits" | "AccessService/GetAccess" => Ok(Outcome::Reply),
        _ => Err("SPIRIT_NOT_FOUND"),
    }
}

/// Creates a spirit with one event.
pub async fn create_subject(guarded: &KeyedServer, name: &str) -> Subject {
    let spirit_id = guarded.admin.spirit(name).await;
    let event_id = guarded.admin.event(&spirit_id).await.id;
    Subject { spirit_id, event_id }
}

#[tokio::test]
async fn every_rpc_enforces_the_role_and_the_spirit_scope_of_a_key() {
    let guarded = KeyedServer::start().await;
    let foreign = create_subject(&guarded, "foreign").await;
    let unknown = Subject {
        spirit_id: Uuid::now_v7().to_string(),
        event_id: Uuid::now_v7().to_string(),
    };
    let rpcs = rpcs();
    assert!(rpcs.len() >= 18, "{} RPCs", rpcs.len());
    for rpc in &rpcs {
        for role in Role::ALL {
            let own = create_subject(&guarded, "own").await;
            let caller = guarded.caller(role, &[&own.spirit_id]).await;
            let name = format!("{} by a {}", rpc.name, role.name());
            let foreign_outcome = outcome(&rpc.name, &caller, &foreign).await;
            let unknown_outcome = outcome(&rpc.name, &caller, &unknown).await;
            assert_eq!(foreign_outcome, unknown_outcome, "{name}");
            let own_outcome = outcome(&rpc.name, &caller, &own).await;
            if role < rpc.required_role || rpc.name == "SpiritService/CreateSpirit" {
                for outcome in [own_outcome, foreign_outcome] {
                    assert_not_allowed(&name, &outcome);
                }
                continue;
            }
            assert_eq!(own_outcome, Outcome::Reply, "{name}");
            match (expected_outside_scope(rpc), foreign_outcome) {
                (Ok(expected), outcome) => assert_eq!(outcome, expected, "{name}"),
                (Err(expected), Outcome::Error(Code::NotFound, reason, _)) => {
                    assert_eq!(reason, expected, "{name}");
                }
                (Err(expected), outcome) => panic!("{name}: expected {expected}, got {outcome:?}"),
            }
        }
    }
    assert_unchanged(&guarded, &foreign).await;
}

#[tokio::test]
async fn an_unscoped_key_reaches_every_spirit_in_every_rpc_of_its_role() {
    let guarded = KeyedServer::start().await;
    for rpc in rpcs() {
        let subject = create_subject(&guarded, "any").await;
        for role in Role::ALL {
            let caller = guarded
                .keys
                .create(role, None, None)
                .await
                .caller(&guarded.server);
            let name = format!("{} by a {}", rpc.name, role.name());
            let outcome = outcome(&rpc.name, &caller, &subject).await;
            if role < rpc.required_role {
                assert_not_allowed(&name, &outcome);
            } else {
                // `call` takes a count other than one for an empty reply; an unscoped key counts every spirit.
                let is_count = rpc.name.ends_with("/CountSpirits") && outcome == Outcome::EmptyReply;
                assert!(outcome == Outcome::Reply || is_count, "{name}: {outcome:?}");
            }
        }
    }
}

/// Asserts that an outcome is the error of a key without the required role.
#[track_caller]
fn assert_not_allowed(name: &str, outcome: &Outcome) {
    let Outcome::Error(code, reason, _) = outcome else {
        panic!("{name}: expected NOT_ALLOWED, got {outcome:?}")
    };
    assert_eq!(
        (*code, reason.as_str()),
        (Code::PermissionDenied, "NOT_ALLOWED"),
        "{name}"
    );
}

/// Asserts that no call has changed the foreign spirit or its event.
async fn assert_unchanged(guarded: &KeyedServer, foreign: &Subject) {
    let request = GetSpiritRequest {
        spirit_id: foreign.spirit_id.clone(),
        ..Default::default()
    };
    let spirit = reply(guarded.admin.spirits().get_spirit(request))
        .await
        .unwrap()
        .spirit
        .unwrap();
    assert_eq!((spirit.revision, spirit.last_sequence), (1, 1));
    let request = GetEventRequest {
        event_id: foreign.event_id.clone(),
        ..Default::default()
    };
    let event = reply(guarded.admin.events().get_event(request))
        .await
        .unwrap()
        .event
        .unwrap();
    assert_eq!(event.revision, 1);
}
