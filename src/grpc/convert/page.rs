//! Converts page tokens and cursors to positions, and pages of a list to messages with the next page token.

use prost::Message;

use super::outbound::event;
use crate::domain::cursor::{CursorPosition, InvalidCursor, decode, encode};
use crate::domain::event::Event;
use crate::domain::filter::QueryHash;
use crate::domain::limits::PAGE_BYTES;
use crate::grpc::pb;
use crate::grpc::status::ApiError;
use crate::store::EventPage;

/// Decodes a cursor of this query. `field` is the field that the error names.
pub(super) fn position<P: CursorPosition>(
    query: QueryHash,
    field: &'static str,
    cursor: &str,
) -> Result<P, ApiError> {
    decode(query, cursor).map_err(|InvalidCursor| ApiError::InvalidCursor(field))
}

/// Decodes the position after which a page starts; `None` for the first page, which has no token.
pub(super) fn page_start<P: CursorPosition>(
    query: QueryHash,
    page_token: &str,
) -> Result<Option<P>, ApiError> {
    if page_token.is_empty() {
        return Ok(None);
    }
    position(query, "page_token", page_token).map(Some)
}

/// Converts a page of events.
pub(crate) fn event_page(page: EventPage, query: QueryHash) -> pb::ListEventsResponse {
    let (events, next_page_token) = paginate(page.events, page.more, query, Event::position, event);
    pb::ListEventsResponse {
        events,
        next_page_token,
    }
}

/// Converts rows to messages until they reach [`PAGE_BYTES`], at least one. Returns the messages and the token
/// of the next page, which is empty if no rows follow. `more` is whether rows follow `rows`.
pub(super) fn paginate<T, P: CursorPosition, M: Message>(
    rows: Vec<T>,
    more: bool,
    query: QueryHash,
    position: impl Fn(&T) -> P,
    message: impl Fn(T) -> M,
) -> (Vec<M>, String) {
    let mut bytes = 0;
    let mut messages = Vec::with_capacity(rows.len());
    let mut last = None;
    for row in rows {
        let row_position = position(&row);
        let message = message(row);
        bytes += message.encoded_len();
        if bytes > PAGE_BYTES
            && let Some(last) = &last
        {
            return (messages, encode(query, last));
        }
        messages.push(message);
        last = Some(row_position);
    }
    let token = match last {
        Some(last) if more => encode(query, &last),
        _ => String::new(),
    };
    (messages, token)
}
