//! Authorisation of every RPC: keys of every role, scoped to one spirit, call it for that spirit, for a
//! foreign spirit and for an unknown one. The RPCs are read from the descriptor set, so that an RPC added without a
//! case here fails the test.

use std::collections::BTreeMap;

use elephantasm_events::domain::access::Role;
use elephantasm_events::grpc::pb;
use elephantasm_events::grpc::pb::{GetEventRequest, GetSpiritRequest, UpdateEventRequest};
use prost::Message as _;
use prost_types::method_options::IdempotencyLevel;
use prost_types::{FileDescriptorSet, MethodOptions};
use tonic::Code;
use tonic::transport::Channel;
use tonic_types::StatusExt as _;
use uuid::Uuid;

use super::calls::{Subject, call, reply};
use crate::support::access::{Caller, KeyedServer};

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
                    (_, "PurgeService") => Role::Admin,
                    (Some(IdempotencyLevel::NoSideEffects), _) => Role::Reader,
                    (_, "EventService" | "SessionService") => Role::Writer,
                    _ => Role::Admin,
                },
                names_event: request.field.iter().any(|field| field.name() == "event_id"),
            });
        }
    }
    rpcs
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
        "EventService/ListEventChanges" => Ok(Outcome::EmptyReply),
        _ if rpc.names_event => Err("EVENT_NOT_FOUND"),
        "SessionService/GetSession" => Err("SESSION_NOT_FOUND"),
        "EventService/ListEvents"
        | "EventService/StreamSessionEvents"
        | "EventService/CountEvents"
        | "SessionService/ListSessions"
        | "PurgeService/ListPurges"
        | "SpiritService/ListSpirits" => Ok(Outcome::EmptyReply),
        // Their requests name no spirit: the reply is that of the key, whatever the subject.
        "SpiritService/CountSpirits" | "AccessService/GetAccess" => Ok(Outcome::Reply),
        _ => Err("SPIRIT_NOT_FOUND"),
    }
}

/// Creates a spirit with one event, and edits the event.
pub async fn create_subject(guarded: &KeyedServer, name: &str) -> Subject {
    let spirit_id = guarded.admin.spirit(name).await;
    let event_id = guarded.admin.event(&spirit_id).await.id;
    let request = UpdateEventRequest {
        event_id: event_id.clone(),
        role: Some("assistant".to_owned()),
        ..Default::default()
    };
    guarded.admin.events().update_event(request).await.unwrap();
    Subject { spirit_id, event_id }
}

#[tokio::test]
async fn every_rpc_enforces_the_role_and_the_spirit_scope_of_a_key() {
    let guarded = KeyedServer::start().await;
    every_rpc_enforces_the_role_and_the_scope(&guarded, &guarded.server.channel()).await;
}

/// Calls every RPC over this channel with keys of every role.
pub async fn every_rpc_enforces_the_role_and_the_scope(guarded: &KeyedServer, channel: &Channel) {
    let foreign = create_subject(guarded, "foreign").await;
    let unknown = Subject {
        spirit_id: Uuid::now_v7().to_string(),
        event_id: Uuid::now_v7().to_string(),
    };
    let rpcs = rpcs();
    assert!(rpcs.len() >= 18, "{} RPCs", rpcs.len());
    for rpc in &rpcs {
        for role in Role::ALL {
            let own = create_subject(guarded, "own").await;
            let key = guarded.keys.create(role, Some(&[&own.spirit_id]), None).await;
            let caller = key.caller_over(channel.clone());
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
            if matches!(&own_outcome, Outcome::Error(Code::Unimplemented, reason, _) if reason == "NEEDS_GRPC")
            {
                assert_eq!(
                    (rpc.name.as_str(), &own_outcome),
                    ("EventService/IngestEvents", &foreign_outcome)
                );
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
    assert_unchanged(guarded, &foreign).await;
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
    assert_eq!(
        (spirit.revision, spirit.last_sequence, spirit.last_change),
        (1, 1, 1)
    );
    let request = GetEventRequest {
        event_id: foreign.event_id.clone(),
        ..Default::default()
    };
    let event = reply(guarded.admin.events().get_event(request))
        .await
        .unwrap()
        .event
        .unwrap();
    assert_eq!(event.revision, 2);
}
