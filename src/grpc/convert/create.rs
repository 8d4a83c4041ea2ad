//! Converts requests of `CreateEvent`, `BatchCreateEvents` and `IngestEvents`.

use chrono::{SubsecRound as _, Utc};
use prost::Message as _;

use super::fields::{enumeration, meta, view_of};
use super::timestamp::time;
use crate::domain::event::{BatchMode, NewEvent, OnDuplicate};
use crate::domain::ids::{EventId, SpiritId};
use crate::domain::invalid::{Fields, Invalid};
use crate::domain::limits::{
    AUTHOR_CHARS_MAX, BATCH_BYTES_MAX, BATCH_ITEMS_MAX, DEDUPE_KEY_CHARS_MAX, EVENT_TYPE_CHARS_MAX, Limits,
    META_SUMMARY_BYTES_MAX, REQUEST_ID_CHARS_MAX, ROLE_CHARS_MAX, SESSION_ID_CHARS_MAX, SOURCE_URI_CHARS_MAX,
};
use crate::domain::meta::Meta;
use crate::grpc::pb;
use crate::grpc::status::ApiError;

/// Fractional digits of a second in stored times.
const MICROSECOND_DIGITS: u16 = 6;

/// Converts a create. Errors name fields with the prefix `below`, such as `requests[3].`.
pub(crate) fn new_event(
    request: pb::CreateEventRequest,
    below: String,
    limits: &Limits,
) -> Result<NewEvent, Invalid> {
    let pb::CreateEventRequest {
        spirit_id,
        event_type,
        content,
        meta_summary,
        occurred_at,
        session_id,
        role,
        author,
        meta: meta_struct,
        source_uri,
        dedupe_key,
        importance_score,
        on_duplicate,
        expected_last_sequence,
        expected_session_last_sequence,
        reply_view,
    } = request;
    let mut f = Fields::below(below);
    if content.is_none() {
        f.refuse("content", "is required; it may be empty");
    }
    if expected_session_last_sequence.is_some() && session_id.is_none() {
        f.refuse("expected_session_last_sequence", "needs session_id");
    }
    let on_duplicate = match enumeration(&mut f, "on_duplicate", on_duplicate) {
        pb::OnDuplicate::Unspecified | pb::OnDuplicate::Reject => OnDuplicate::Reject,
        pb::OnDuplicate::ReturnExisting => OnDuplicate::ReturnExisting,
    };
    let mut event = NewEvent {
        id: EventId::generate(),
        spirit_id: SpiritId(f.uuid("spirit_id", &spirit_id)),
        event_type: f.chars("event_type", event_type, EVENT_TYPE_CHARS_MAX),
        content: f.bytes("content", content.unwrap_or_default(), limits.content_bytes_max),
        meta_summary: meta_summary.map(|text| f.bytes("meta_summary", text, META_SUMMARY_BYTES_MAX)),
        occurred_at_given: occurred_at.is_some(),
        occurred_at: match occurred_at {
            Some(timestamp) => time(&mut f, "occurred_at", timestamp),
            None => Utc::now().trunc_subsecs(MICROSECOND_DIGITS),
        },
        session_id: session_id.map(|text| f.chars("session_id", text, SESSION_ID_CHARS_MAX)),
        role: role.map(|text| f.chars("role", text, ROLE_CHARS_MAX)),
        author: author.map(|text| f.chars("author", text, AUTHOR_CHARS_MAX)),
        meta: meta_struct.map_or_else(Meta::empty, |value| {
            meta(&mut f, "meta", &value, limits.meta_bytes_max)
        }),
        source_uri: source_uri.map(|text| f.chars("source_uri", text, SOURCE_URI_CHARS_MAX)),
        dedupe_key: dedupe_key.map(|text| f.chars("dedupe_key", text, DEDUPE_KEY_CHARS_MAX)),
        importance_score: importance_score.map(|score| f.score("importance_score", score)),
        on_duplicate,
        expected_last_sequence: expected_last_sequence.map(|n| f.at_least("expected_last_sequence", n, 0)),
        expected_session_last_sequence: expected_session_last_sequence
            .map(|n| f.at_least("expected_session_last_sequence", n, 0)),
        reply_view: view_of(&mut f, "reply_view", reply_view),
    };
    event.derive_dedupe_key();
    f.finish(event)
}

/// Checks the fields of a create by the rules of CreateEvent, without a server. Fields that the server would derive or
/// look up are not checked.
pub fn check_create(request: pb::CreateEventRequest, limits: &Limits) -> Result<(), Invalid> {
    new_event(request, String::new(), limits).map(drop)
}

/// A batch, with a result of validation for each item.
pub(crate) struct Batch {
    pub(crate) mode: BatchMode,
    /// In request order. All items of an atomic batch are valid.
    pub(crate) items: Vec<Result<NewEvent, Invalid>>,
}

/// Converts a batch. An invalid item makes an atomic batch invalid.
pub(crate) fn batch(request: pb::BatchCreateEventsRequest, limits: &Limits) -> Result<Batch, ApiError> {
    let bytes = request.encoded_len();
    if bytes > BATCH_BYTES_MAX {
        return Err(ApiError::MessageTooLarge(format!(
            "a batch must have at most {BATCH_BYTES_MAX} bytes, has {bytes}; send it in parts"
        )));
    }
    let pb::BatchCreateEventsRequest { requests, mode } = request;
    let mut f = Fields::default();
    let mode = match enumeration(&mut f, "mode", mode) {
        pb::BatchMode::Unspecified | pb::BatchMode::Atomic => BatchMode::Atomic,
        pb::BatchMode::Partial => BatchMode::Partial,
    };
    if !(1..=BATCH_ITEMS_MAX).contains(&requests.len()) {
        f.refuse(
            "requests",
            format_args!("must have 1 to {BATCH_ITEMS_MAX} items, has {}", requests.len()),
        );
        return Err(f.into_invalid().into());
    }
    let mut items = Vec::with_capacity(requests.len());
    for (index, request) in requests.into_iter().enumerate() {
        let item = new_event(request, format!("requests[{index}]."), limits);
        match item {
            Err(invalid) if mode == BatchMode::Atomic => f.absorb(invalid),
            item => items.push(item),
        }
    }
    Ok(f.finish(Batch { mode, items })?)
}

/// An item of an ingest stream. Its reply contains the request id even if the item is invalid.
pub(crate) struct IngestItem {
    pub(crate) request_id: String,
    pub(crate) event: Result<NewEvent, Invalid>,
}

/// Converts an item of an ingest stream.
pub(crate) fn ingest(request: pb::IngestEventsRequest, limits: &Limits) -> IngestItem {
    let pb::IngestEventsRequest {
        mut request_id,
        create,
    } = request;
    let mut f = Fields::default();
    if !request_id.is_empty() {
        request_id = f.chars("request_id", request_id, REQUEST_ID_CHARS_MAX);
    }
    if let Some((end, _)) = request_id.char_indices().nth(REQUEST_ID_CHARS_MAX) {
        request_id.truncate(end);
    }
    let event = match create.map(|create| new_event(create, "create.".to_owned(), limits)) {
        Some(Ok(event)) => f.finish(event),
        Some(Err(invalid)) => {
            f.absorb(invalid);
            Err(f.into_invalid())
        }
        None => {
            f.refuse("create", "is required");
            Err(f.into_invalid())
        }
    };
    IngestItem { request_id, event }
}
