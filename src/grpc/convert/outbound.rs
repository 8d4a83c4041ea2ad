//! Converts domain types to protobuf messages.

use std::collections::HashMap;
use std::time::Duration;

use prost_types::Struct;

use super::timestamp::timestamp_of;
use crate::domain::access::{Access, Role};
use crate::domain::change::{ChangeKind, EventChange, FormerValues};
use crate::domain::event::{Created, Event};
use crate::domain::ids::{EventId, SpiritId};
use crate::domain::meta::Meta;
use crate::domain::purge::{Purge, PurgeSelection, Retention};
use crate::domain::refusal::Refusal;
use crate::domain::session::Session;
use crate::domain::spirit::Spirit;
use crate::grpc::json::struct_of_object;
use crate::grpc::pb;
use crate::grpc::status::item_status;
use crate::store::StoreError;

/// Converts an event. Content and meta stay absent in the BASIC view.
pub(crate) fn event(event: Event) -> pb::Event {
    pb::Event {
        id: event.id.to_string(),
        spirit_id: Some(event.spirit_id.to_string()),
        sequence: event.sequence,
        event_type: Some(event.event_type),
        meta_summary: event.meta_summary,
        content: event.content,
        content_bytes: event.content_bytes,
        occurred_at: Some(timestamp_of(event.occurred_at)),
        session_id: event.session_id,
        role: event.role,
        author: event.author,
        meta: event.meta.as_ref().map(meta),
        source_uri: event.source_uri,
        dedupe_key: event.dedupe_key,
        importance_score: event.importance_score,
        revision: event.revision,
        is_deleted: event.deleted_at.is_some(),
        deleted_at: event.deleted_at.map(timestamp_of),
        created_at: Some(timestamp_of(event.created_at)),
        updated_at: Some(timestamp_of(event.updated_at)),
    }
}

/// Converts what a caller may do.
pub(crate) fn access(access: Access) -> pb::GetAccessResponse {
    let Access {
        role,
        scope,
        key_prefix,
        expires_at,
    } = access;
    let role = match role {
        Role::Reader => pb::AccessRole::Reader,
        Role::Writer => pb::AccessRole::Writer,
        Role::Admin => pb::AccessRole::Admin,
    };
    let spirit_ids = scope.spirit_ids().unwrap_or_default();
    pb::GetAccessResponse {
        role: role.into(),
        spirit_ids: spirit_ids.iter().map(SpiritId::to_string).collect(),
        key_prefix,
        expires_at: expires_at.map(timestamp_of),
    }
}

/// Converts a spirit.
pub(crate) fn spirit(spirit: Spirit) -> pb::Spirit {
    pb::Spirit {
        id: spirit.id.to_string(),
        name: Some(spirit.name),
        description: spirit.description,
        meta: Some(meta(&spirit.meta)),
        last_sequence: spirit.last_sequence,
        last_change: spirit.last_change,
        retention: (!spirit.retention.is_empty()).then(|| retention(spirit.retention)),
        is_deleted: spirit.deleted_at.is_some(),
        deleted_at: spirit.deleted_at.map(timestamp_of),
        revision: spirit.revision,
        created_at: Some(timestamp_of(spirit.created_at)),
        updated_at: Some(timestamp_of(spirit.updated_at)),
    }
}

fn retention(retention: Retention) -> pb::Retention {
    let Retention {
        max_age,
        deleted_max_age,
        history_max_age,
    } = retention;
    let age = |age: Option<Duration>| {
        age.map(|age| prost_types::Duration {
            seconds: i64::try_from(age.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(age.subsec_nanos()).unwrap_or(0),
        })
    };
    pb::Retention {
        max_age: age(max_age),
        deleted_max_age: age(deleted_max_age),
        history_max_age: age(history_max_age),
    }
}

/// Converts a purge.
pub(crate) fn purge(purge: Purge) -> pb::Purge {
    let selection = match purge.selection {
        PurgeSelection::EventIds => pb::PurgeSelection::EventIds,
        PurgeSelection::SessionId => pb::PurgeSelection::SessionId,
        PurgeSelection::SessionOwner => pb::PurgeSelection::SessionOwner,
        PurgeSelection::CreatedUntil => pb::PurgeSelection::CreatedUntil,
        PurgeSelection::DeletedUntil => pb::PurgeSelection::DeletedUntil,
        PurgeSelection::Author => pb::PurgeSelection::Author,
        PurgeSelection::All => pb::PurgeSelection::All,
        PurgeSelection::Spirit => pb::PurgeSelection::Spirit,
        PurgeSelection::Retention => pb::PurgeSelection::Retention,
    };
    pb::Purge {
        purge_id: purge.id.to_string(),
        spirit_id: purge.spirit_id.to_string(),
        selection: selection.into(),
        reason: purge.reason,
        requested_by: purge.requested_by.unwrap_or_default(),
        started_at: Some(timestamp_of(purge.started_at)),
        finished_at: purge.finished_at.map(timestamp_of),
        purged_count: purge.purged_count,
        lowest_sequence: purge.lowest_sequence.unwrap_or(0),
        highest_sequence: purge.highest_sequence.unwrap_or(0),
    }
}

/// Converts a change of events.
pub(crate) fn change(change: EventChange) -> pb::EventChange {
    let kind = match change.kind {
        ChangeKind::Updated => pb::ChangeKind::Updated,
        ChangeKind::Deleted => pb::ChangeKind::Deleted,
        ChangeKind::Restored => pb::ChangeKind::Restored,
        ChangeKind::Purged => pb::ChangeKind::Purged,
    };
    pb::EventChange {
        spirit_id: change.spirit_id.to_string(),
        change: change.change,
        kind: kind.into(),
        event_ids: change.event_ids.iter().map(EventId::to_string).collect(),
        sequences: change.sequences,
        fields: change.fields,
        previous: change.previous.map(former_values),
        revision: change.revision,
        changed_at: Some(timestamp_of(change.changed_at)),
        changed_by: change.changed_by.unwrap_or_default(),
    }
}

/// Converts the former values of an event's fields to an event that has these fields alone.
fn former_values(former: FormerValues) -> pb::Event {
    let FormerValues {
        meta_summary,
        importance_score,
        meta: former_meta,
        role,
        author,
        is_deleted,
        deleted_at,
    } = former;
    pb::Event {
        meta_summary,
        importance_score,
        meta: former_meta.as_ref().map(meta),
        role,
        author,
        is_deleted,
        deleted_at: deleted_at.map(timestamp_of),
        ..pb::Event::default()
    }
}

fn meta(meta: &Meta) -> Struct {
    struct_of_object(meta.as_json()).expect("meta is a JSON object by construction")
}

/// Converts the outcome of a create.
pub(crate) fn outcome(created: &Created) -> pb::CreateOutcome {
    match created {
        Created::New(_) => pb::CreateOutcome::Created,
        Created::Duplicate { different: false, .. } => pb::CreateOutcome::Duplicate,
        Created::Duplicate { different: true, .. } => pb::CreateOutcome::DuplicateDifferent,
    }
}

/// Returns the receipt of a create on an ingest stream.
pub(crate) fn receipt(created: &Created) -> pb::IngestReceipt {
    let (id, sequence) = match created {
        Created::New(event) => (event.id, event.sequence),
        Created::Duplicate { id, sequence, .. } => (*id, *sequence),
    };
    pb::IngestReceipt {
        event_id: id.to_string(),
        sequence,
        outcome: outcome(created).into(),
    }
}

/// Returns the reply to a create.
pub(crate) fn create_response(stored: Event, outcome: pb::CreateOutcome) -> pb::CreateEventResponse {
    pb::CreateEventResponse {
        event: Some(event(stored)),
        outcome: outcome.into(),
    }
}

/// Returns the result of an item of a batch, with the event in the BASIC view. `duplicates` has the existing
/// events of all items whose dedupe key was taken; several items can have the same existing event.
pub(crate) fn batch_result(
    result: Result<Created, StoreError>,
    duplicates: &HashMap<EventId, Event>,
) -> pb::BatchCreateEventsResult {
    use pb::batch_create_events_result::Result as Item;
    let response = result.and_then(|created| {
        let outcome = outcome(&created);
        let event = match created {
            Created::New(event) => event.into_basic(),
            Created::Duplicate { id, .. } => {
                duplicates.get(&id).cloned().ok_or(Refusal::EventNotFound(id))?
            }
        };
        Ok(create_response(event, outcome))
    });
    pb::BatchCreateEventsResult {
        result: Some(match response {
            Ok(response) => Item::Created(response),
            Err(error) => Item::Error(item_status(error)),
        }),
    }
}

/// Converts a session.
pub(crate) fn session(session: Session) -> pb::Session {
    pb::Session {
        spirit_id: session.spirit_id.to_string(),
        session_id: session.session_id,
        event_count: session.event_count,
        first_occurred_at: session.first_occurred_at.map(timestamp_of),
        last_occurred_at: session.last_occurred_at.map(timestamp_of),
        title: session.title,
        owner: session.owner,
        meta: session.meta.as_ref().map(meta),
        last_sequence: session.last_sequence,
        revision: session.revision,
        updated_at: session.updated_at.map(timestamp_of),
    }
}
