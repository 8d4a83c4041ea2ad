//! Converts requests of `ListEventChanges` and `WatchChanges`, and pages of changes.

use super::fields::enumeration;
use super::outbound::change;
use super::page::{page_start, paginate};
use crate::domain::access::SpiritScope;
use crate::domain::change::EventChange;
use crate::domain::filter::QueryHash;
use crate::domain::ids::{EventId, SpiritId};
use crate::domain::invalid::{Fields, Invalid};
use crate::grpc::pb;
use crate::grpc::status::ApiError;
use crate::store::{ChangePage, ChangeQuery, ChangeWatch, WatchStart};

/// Converts a list of the changes of an event. Also returns the hash in its page tokens.
pub(crate) fn list_event_changes(
    request: pb::ListEventChangesRequest,
    scope: &SpiritScope,
) -> Result<(ChangeQuery, QueryHash), ApiError> {
    let pb::ListEventChangesRequest {
        event_id,
        spirit_id,
        page_size,
        page_token,
    } = request;
    let mut f = Fields::default();
    let event_id = EventId(f.uuid("event_id", &event_id));
    let spirit_id = spirit_id.map(|text| SpiritId(f.uuid("spirit_id", &text)));
    let size = f.page_size("page_size", page_size);
    f.finish(())?;

    let named = spirit_id.as_ref().map(|id| id.0.as_bytes().as_slice());
    let hash = QueryHash::of("ListEventChanges", &[Some(event_id.0.as_bytes()), named]);
    let query = ChangeQuery {
        event_id,
        scope: scope.narrow(spirit_id),
        after: page_start(hash, &page_token)?,
        size,
    };
    Ok((query, hash))
}

/// Converts a page of changes.
pub(crate) fn change_page(page: ChangePage, query: QueryHash) -> pb::ListEventChangesResponse {
    let (changes, next_page_token) = paginate(page.changes, page.more, query, EventChange::position, change);
    pb::ListEventChangesResponse {
        changes,
        next_page_token,
    }
}

/// Converts a watch of changes.
pub(crate) fn watch_changes(request: pb::WatchChangesRequest) -> Result<ChangeWatch, Invalid> {
    use pb::watch_changes_request::Start;
    let pb::WatchChangesRequest { spirit_id, start } = request;
    let mut f = Fields::default();
    let watch = ChangeWatch {
        spirit_id: SpiritId(f.uuid("spirit_id", &spirit_id)),
        start: match start {
            None => WatchStart::Now,
            Some(Start::AfterChange(change)) => WatchStart::After(f.at_least("after_change", change, 0)),
            Some(Start::StartAt(start)) => watch_start(&mut f, start),
        },
    };
    f.finish(watch)
}

/// Converts the start of a watch without a number.
pub(super) fn watch_start(f: &mut Fields, start: i32) -> WatchStart {
    match enumeration(f, "start_at", start) {
        pb::WatchStart::Unspecified | pb::WatchStart::FromNow => WatchStart::Now,
        pb::WatchStart::FromBeginning => WatchStart::Beginning,
    }
}
