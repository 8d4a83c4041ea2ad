//! Every RPC, with keys of every role that are limited to one spirit, on that spirit, on somebody else's and
//! on one that does not exist. The RPCs are those of the descriptor set: a new one has no place here yet, and
//! fails the test.

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

/// What a call is about.
#[derive(Clone, Debug)]
pub struct Subject {
    pub spirit_id: String,
    pub event_id: String,
}

/// What a caller learns, with the ids of the subject taken out.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Learns {
    /// Code, reason and all that the error tells.
    Refusal(Code, String, String),
    Nothing,
    Something,
}

/// An RPC of the descriptor set.
struct Rpc {
    /// Service and method.
    name: String,
    needs: Role,
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
                needs: match (level, service.name()) {
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

/// The first message of a stream.
pub async fn first<M>(stream: Result<Response<Streaming<M>>, Status>) -> Result<bool, Status> {
    Ok(stream?.into_inner().message().await?.is_some())
}

/// Makes the call about the subject; whether there was something in the reply.
#[allow(clippy::too_many_lines)] // a line an RPC
async fn call(rpc: &str, caller: &Caller, about: &Subject) -> Result<bool, Status> {
    let (mut events, mut spirits) = (caller.events(), caller.spirits());
    let Subject { spirit_id, event_id } = about.clone();
    Ok(match rpc {
        "EventService/CreateEvent" => reply(events.create_event(event(&spirit_id)))
            .await?
            .event
            .is_some(),
        "EventService/BatchCreateEvents" => {
            let requests = vec![event(&spirit_id)];
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
            let create = Some(event(&spirit_id));
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
            first(events.stream_session_events(stream(&spirit_id, "s")).await).await?
        }
        "EventService/WatchEvents" => {
            let start = watch_events_request::Start::StartAt(WatchStart::FromBeginning.into());
            let request = WatchEventsRequest {
                spirit_id,
                start: Some(start),
                ..Default::default()
            };
            first(events.watch_events(request).await).await?
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
            // Own, foreign and those of other rounds; a limited key must count its own one alone.
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
        unknown => panic!("{unknown} has no place in this test: what may whom see by it?"),
    })
}

async fn learns(rpc: &str, caller: &Caller, about: &Subject) -> Learns {
    match call(rpc, caller, about).await {
        Ok(true) => Learns::Something,
        Ok(false) => Learns::Nothing,
        Err(status) => {
            let details = status.get_error_details();
            let metadata: BTreeMap<_, _> = details.error_info().expect("ErrorInfo").metadata.iter().collect();
            let (resource, retry) = (details.resource_info(), details.retry_info());
            let told = format!("{} {metadata:?} {resource:?} {retry:?}", status.message());
            let told = told
                .replace(&about.spirit_id, "(spirit)")
                .replace(&about.event_id, "(event)");
            let reason = status.get_details_error_info().expect("ErrorInfo").reason;
            Learns::Refusal(status.code(), reason, told)
        }
    }
}

/// What a key with enough of a role learns of a spirit outside its list.
fn of_outside(rpc: &Rpc) -> Result<Learns, &'static str> {
    match rpc.name.as_str() {
        _ if rpc.names_event => Err("EVENT_NOT_FOUND"),
        "EventService/ListEvents"
        | "EventService/StreamSessionEvents"
        | "EventService/CountEvents"
        | "EventService/ListSessions"
        | "SpiritService/ListSpirits" => Ok(Learns::Nothing),
        // It names no spirit: the answer is of the key's own one, whatever the subject.
        "SpiritService/CountSpirits" => Ok(Learns::Something),
        _ => Err("SPIRIT_NOT_FOUND"),
    }
}

pub async fn new_subject(guarded: &KeyedServer, name: &str) -> Subject {
    let spirit_id = guarded.admin.spirit(name).await;
    let event_id = guarded.admin.event(&spirit_id).await.id;
    Subject { spirit_id, event_id }
}

#[tokio::test]
async fn what_a_key_may_and_sees_is_its_role_and_its_spirits_in_every_rpc() {
    let guarded = KeyedServer::start().await;
    let foreign = new_subject(&guarded, "foreign").await;
    let unknown = Subject {
        spirit_id: Uuid::now_v7().to_string(),
        event_id: Uuid::now_v7().to_string(),
    };
    let rpcs = rpcs();
    assert!(rpcs.len() >= 18, "{} RPCs", rpcs.len());
    for rpc in &rpcs {
        for role in Role::ALL {
            let own = new_subject(&guarded, "own").await;
            let caller = guarded.caller(role, &[&own.spirit_id]).await;
            let name = format!("{} by a {}", rpc.name, role.name());
            let of_foreign = learns(&rpc.name, &caller, &foreign).await;
            let of_unknown = learns(&rpc.name, &caller, &unknown).await;
            assert_eq!(of_foreign, of_unknown, "{name}");
            let of_own = learns(&rpc.name, &caller, &own).await;
            if role < rpc.needs || rpc.name == "SpiritService/CreateSpirit" {
                for learnt in [of_own, of_foreign] {
                    let Learns::Refusal(code, reason, _) = learnt else {
                        panic!("{name}: {learnt:?}")
                    };
                    assert_eq!(
                        (code, reason.as_str()),
                        (Code::PermissionDenied, "NOT_ALLOWED"),
                        "{name}"
                    );
                }
                continue;
            }
            assert_eq!(of_own, Learns::Something, "{name}");
            match (of_outside(rpc), of_foreign) {
                (Ok(expected), learnt) => assert_eq!(learnt, expected, "{name}"),
                (Err(expected), Learns::Refusal(Code::NotFound, reason, _)) => {
                    assert_eq!(reason, expected, "{name}");
                }
                (Err(expected), learnt) => panic!("{name}: {learnt:?} and not {expected}"),
            }
        }
    }
    is_untouched(&guarded, &foreign).await;
}

#[tokio::test]
async fn a_key_without_a_list_sees_every_spirit_in_every_rpc() {
    let guarded = KeyedServer::start().await;
    for rpc in rpcs() {
        let subject = new_subject(&guarded, "any").await;
        for role in Role::ALL {
            let caller = guarded
                .keys
                .create(role, None, None)
                .await
                .caller(&guarded.server);
            let name = format!("{} by a {}", rpc.name, role.name());
            match learns(&rpc.name, &caller, &subject).await {
                Learns::Refusal(code, reason, _) => {
                    assert!(role < rpc.needs, "{name}: {code:?} {reason}");
                    assert_eq!(
                        (code, reason.as_str()),
                        (Code::PermissionDenied, "NOT_ALLOWED"),
                        "{name}"
                    );
                }
                learnt => assert!(
                    role >= rpc.needs && (learnt == Learns::Something || rpc.name.ends_with("/CountSpirits")),
                    "{name}: {learnt:?}"
                ),
            }
        }
    }
}

/// Nothing that the callers tried has changed the foreign spirit or its event.
async fn is_untouched(guarded: &KeyedServer, foreign: &Subject) {
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
