//! Converts requests that read events: of one event, lists, counts, replays and watches.

use super::change::watch_start;
use super::fields::{content_bytes_max_of, enumeration, json_path, meta, offset, view_cut_to};
use super::page::{page_start, position};
use super::timestamp::{time, time_of};
use crate::domain::access::SpiritScope;
use crate::domain::event::Order;
use crate::domain::filter::{EventFilter, META_MATCHES, QueryHash, Selection};
use crate::domain::ids::{EventId, SpiritId};
use crate::domain::invalid::{Fields, Invalid};
use crate::domain::limits::{
    AUTHOR_CHARS_MAX, EVENT_TYPE_CHARS_MAX, FILTER_VALUES_MAX, Limits, PAGE_BYTES, ROLE_CHARS_MAX,
    SESSION_ID_CHARS_MAX,
};
use crate::grpc::pb;
use crate::grpc::status::ApiError;
use crate::store::{EventQuery, PageStart, Replay, ReplayStart, Watch, WatchStart};

/// Converts a read of one event: id, spirits that it may belong to, whether it may be deleted, and the length to
/// which its content is cut.
pub(crate) fn get_event(
    request: pb::GetEventRequest,
    scope: &SpiritScope,
) -> Result<(EventId, SpiritScope, bool, Option<i32>), Invalid> {
    let pb::GetEventRequest {
        event_id,
        spirit_id,
        include_deleted,
        content_bytes_max,
    } = request;
    let mut f = Fields::default();
    let id = EventId(f.uuid("event_id", &event_id));
    let spirit_id = spirit_id.map(|text| SpiritId(f.uuid("spirit_id", &text)));
    let cut = content_bytes_max_of(&mut f, content_bytes_max);
    f.finish((id, scope.narrow(spirit_id), include_deleted, cut))
}

/// Converts a list of events. Also returns the hash in its page tokens.
pub(crate) fn list(
    request: pb::ListEventsRequest,
    limits: &Limits,
) -> Result<(EventQuery, QueryHash), ApiError> {
    let pb::ListEventsRequest {
        spirit_id,
        session_id,
        filter,
        page_size,
        page_token,
        offset: requested_offset,
        order,
        view,
        after_sequence,
        content_bytes_max,
    } = request;
    let mut f = Fields::default();
    let selection = selection(&mut f, &spirit_id, session_id, filter, limits);
    let size = f.page_size("page_size", page_size);
    let offset = offset(&mut f, requested_offset, &page_token);
    let order = match enumeration(&mut f, "order", order) {
        pb::EventOrder::NewestFirst => Order::NewestFirst,
        pb::EventOrder::OldestFirst => Order::OldestFirst,
        pb::EventOrder::Sequence => Order::Sequence,
        pb::EventOrder::SequenceDesc => Order::SequenceDesc,
        pb::EventOrder::Unspecified if selection.session_id.is_some() => Order::OldestFirst,
        pb::EventOrder::Unspecified => Order::NewestFirst,
    };
    let after_sequence = after_sequence.map_or(0, |sequence| after_sequence_in(&mut f, sequence, order));
    let view = view_cut_to(&mut f, view, content_bytes_max);
    f.finish(())?;

    let range = format!("{} after {after_sequence}", order.name());
    let hash = QueryHash::of_events("ListEvents", &selection, &range);
    let start = page_start(hash, &page_token)?.map_or(PageStart::Offset(offset), PageStart::After);
    let query = EventQuery {
        selection,
        order,
        view,
        start,
        after_sequence,
        sequence_max: i64::MAX,
        size,
        bytes: PAGE_BYTES,
    };
    Ok((query, hash))
}

/// Checks the start of a list or replay in this order.
fn after_sequence_in(f: &mut Fields, sequence: i64, order: Order) -> i64 {
    if order != Order::Sequence {
        f.refuse("after_sequence", "needs order EVENT_ORDER_SEQUENCE");
        return 0;
    }
    f.at_least("after_sequence", sequence, 0)
}

/// Converts a replay. Also returns the hash in its cursors.
pub(crate) fn replay(
    request: pb::StreamSessionEventsRequest,
    limits: &Limits,
) -> Result<(Replay, QueryHash), ApiError> {
    use pb::stream_session_events_request::Start;
    let pb::StreamSessionEventsRequest {
        spirit_id,
        session_id,
        filter,
        view,
        limit,
        start,
        follow,
        order,
        content_bytes_max,
    } = request;
    let mut f = Fields::default();
    let order = match enumeration(&mut f, "order", order) {
        pb::EventOrder::Unspecified | pb::EventOrder::OldestFirst => Order::OldestFirst,
        pb::EventOrder::Sequence => Order::Sequence,
        pb::EventOrder::NewestFirst | pb::EventOrder::SequenceDesc => {
            f.refuse(
                "order",
                "must be EVENT_ORDER_OLDEST_FIRST or EVENT_ORDER_SEQUENCE",
            );
            Order::OldestFirst
        }
    };
    let selection = selection(&mut f, &spirit_id, Some(session_id), filter, limits);
    let view = view_cut_to(&mut f, view, content_bytes_max);
    let limit = u64::try_from(f.count("limit", limit))
        .ok()
        .filter(|limit| *limit > 0);
    let (start, after_cursor) = match start {
        None => (ReplayStart::Beginning, None),
        Some(Start::AfterCursor(cursor)) => (ReplayStart::Beginning, Some(cursor)),
        Some(Start::FromTime(timestamp)) => {
            if order.is_by_sequence() {
                f.refuse("from_time", "needs order EVENT_ORDER_OLDEST_FIRST");
            }
            (ReplayStart::FromTime(time(&mut f, "from_time", timestamp)), None)
        }
        Some(Start::AfterSequence(sequence)) => {
            let sequence = after_sequence_in(&mut f, sequence, order);
            (ReplayStart::AfterSequence(sequence), None)
        }
        Some(Start::LastN(n)) => (ReplayStart::LastN(f.at_least("last_n", i64::from(n), 1)), None),
    };
    f.finish(())?;

    let hash = QueryHash::of_events("StreamSessionEvents", &selection, order.name());
    let start = match after_cursor {
        None => start,
        Some(cursor) => ReplayStart::After(position(hash, "after_cursor", &cursor)?),
    };
    let replay = Replay {
        selection,
        view,
        order,
        start,
        limit,
        follow,
    };
    Ok((replay, hash))
}

/// Converts a watch.
pub(crate) fn watch(request: pb::WatchEventsRequest, limits: &Limits) -> Result<Watch, Invalid> {
    use pb::watch_events_request::Start;
    let pb::WatchEventsRequest {
        spirit_id,
        filter,
        view,
        start,
        session_id,
        content_bytes_max,
    } = request;
    let mut f = Fields::default();
    let watch = Watch {
        selection: selection(&mut f, &spirit_id, session_id, filter, limits),
        view: view_cut_to(&mut f, view, content_bytes_max),
        start: match start {
            None => WatchStart::Now,
            Some(Start::AfterSequence(sequence)) => {
                WatchStart::After(f.at_least("after_sequence", sequence, 0))
            }
            Some(Start::StartAt(start)) => watch_start(&mut f, start),
        },
    };
    f.finish(watch)
}

/// Converts a count of events to the selection of the events to count.
pub(crate) fn count(request: pb::CountEventsRequest, limits: &Limits) -> Result<Selection, Invalid> {
    let pb::CountEventsRequest {
        spirit_id,
        session_id,
        filter,
    } = request;
    let mut f = Fields::default();
    let selection = selection(&mut f, &spirit_id, session_id, filter, limits);
    f.finish(selection)
}

pub(super) fn selection(
    f: &mut Fields,
    spirit_id: &str,
    session_id: Option<String>,
    filter: Option<pb::EventFilter>,
    limits: &Limits,
) -> Selection {
    Selection {
        spirit_id: SpiritId(f.uuid("spirit_id", spirit_id)),
        session_id: session_id.map(|text| f.chars("session_id", text, SESSION_ID_CHARS_MAX)),
        filter: event_filter(f, filter.unwrap_or_default(), limits),
    }
}

fn event_filter(f: &mut Fields, filter: pb::EventFilter, limits: &Limits) -> EventFilter {
    let pb::EventFilter {
        event_types,
        roles,
        min_importance,
        occurred_from,
        occurred_until,
        meta_contains,
        include_deleted,
        authors,
        meta_matches,
    } = filter;
    if let (Some(from), Some(until)) = (occurred_from.and_then(time_of), occurred_until.and_then(time_of))
        && from > until
    {
        f.refuse("filter.occurred_from", "must not be after filter.occurred_until");
    }
    EventFilter {
        event_types: values(f, "filter.event_types", event_types, EVENT_TYPE_CHARS_MAX),
        roles: values(f, "filter.roles", roles, ROLE_CHARS_MAX),
        authors: values(f, "filter.authors", authors, AUTHOR_CHARS_MAX),
        min_importance: min_importance.map(|score| f.score("filter.min_importance", score)),
        occurred_from: occurred_from.map(|timestamp| time(f, "filter.occurred_from", timestamp)),
        occurred_until: occurred_until.map(|timestamp| time(f, "filter.occurred_until", timestamp)),
        meta_contains: meta_contains
            .filter(|value| !value.fields.is_empty())
            .map(|value| meta(f, "filter.meta_contains", &value, limits.meta_bytes_max)),
        meta_matches: meta_matches.map(|path| json_path(f, META_MATCHES, path)),
        include_deleted,
    }
}

/// Returns the path in a filter if PostgreSQL has to check it, that is, if [`event_filter`] accepts it.
pub(crate) fn unchecked_path(filter: Option<&pb::EventFilter>) -> Option<String> {
    let path = filter?.meta_matches.clone()?;
    let mut f = Fields::default();
    let path = json_path(&mut f, META_MATCHES, path);
    f.finish(path).ok()
}

/// Validates the values of a filter. Returns them sorted and without duplicates.
fn values(f: &mut Fields, field: &str, values: Vec<String>, chars_max: usize) -> Vec<String> {
    if values.len() > FILTER_VALUES_MAX {
        f.refuse(
            field,
            format_args!(
                "must have at most {FILTER_VALUES_MAX} values, has {}",
                values.len()
            ),
        );
        return Vec::new();
    }
    let mut values: Vec<String> = values
        .into_iter()
        .enumerate()
        .map(|(index, value)| f.chars(&format!("{field}[{index}]"), value, chars_max))
        .collect();
    values.sort_unstable();
    values.dedup();
    values
}
