//! Converts requests of `PurgeService` and pages of purges, and the retention of spirits.

use std::time::Duration;

use super::outbound::purge;
use super::page::{page_start, paginate};
use super::timestamp::time;
use crate::domain::access::{Editor, SpiritScope};
use crate::domain::filter::QueryHash;
use crate::domain::ids::{EventId, SpiritId};
use crate::domain::invalid::{Fields, Invalid};
use crate::domain::limits::{AUTHOR_CHARS_MAX, OWNER_CHARS_MAX, SESSION_ID_CHARS_MAX};
use crate::domain::purge::{
    EventPurge, PURGE_REASON_CHARS_MAX, PURGED_IDS_MAX, Purge, Retention, Selected, SpiritPurge,
};
use crate::grpc::pb;
use crate::grpc::status::ApiError;
use crate::store::{PurgePage, PurgeQuery};

const SELECTIONS: &str = "event_ids, session_id, session_owner, created_until, deleted_until, author or all";

/// Converts a purge of events.
pub(crate) fn event_purge(request: pb::PurgeEventsRequest, caller: Editor) -> Result<EventPurge, Invalid> {
    let pb::PurgeEventsRequest {
        spirit_id,
        reason,
        dry_run,
        event_ids,
        session_id,
        session_owner,
        created_until,
        deleted_until,
        author,
        all,
    } = request;
    let mut f = Fields::default();
    let spirit_id = SpiritId(f.uuid("spirit_id", &spirit_id));
    let reason = purge_reason(&mut f, reason);
    let mut text = |field, text: Option<String>, max| text.map(|text| f.chars(field, text, max));
    let session_id = text("session_id", session_id, SESSION_ID_CHARS_MAX);
    let session_owner = text("session_owner", session_owner, OWNER_CHARS_MAX);
    let author = text("author", author, AUTHOR_CHARS_MAX);
    let mut until = |field, bound: Option<_>| bound.map(|bound| time(&mut f, field, bound));
    let created_until = until("created_until", created_until);
    let deleted_until = until("deleted_until", deleted_until);
    if all == Some(false) {
        f.refuse("all", "must be true if it is given");
    }
    let given = [
        ("event_ids", listed_events(&mut f, &event_ids)),
        ("session_id", session_id.map(Selected::Session)),
        ("session_owner", session_owner.map(Selected::SessionOwner)),
        ("created_until", created_until.map(Selected::CreatedUntil)),
        ("deleted_until", deleted_until.map(Selected::DeletedUntil)),
        ("author", author.map(Selected::Author)),
        ("all", all.map(|_| Selected::All)),
    ];
    let mut given = given
        .into_iter()
        .filter_map(|(field, given)| Some((field, given?)));
    let selected = given.next();
    if let Some((first, _)) = &selected {
        for (field, _) in given {
            f.refuse(field, format_args!("must not be given together with {first}"));
        }
    } else {
        f.refuse(
            "event_ids",
            format_args!("exactly one is required of {SELECTIONS}"),
        );
    }
    f.finish(EventPurge {
        spirit_id,
        selected: selected.map_or(Selected::EventIds(Vec::new()), |(_, selected)| selected),
        reason,
        requested_by: caller.key_prefix,
        is_dry_run: dry_run,
    })
}

fn listed_events(f: &mut Fields, event_ids: &[String]) -> Option<Selected> {
    if event_ids.is_empty() {
        return None;
    }
    if event_ids.len() > PURGED_IDS_MAX {
        f.refuse(
            "event_ids",
            format_args!(
                "must have at most {PURGED_IDS_MAX} values, has {}",
                event_ids.len()
            ),
        );
        return Some(Selected::EventIds(Vec::new()));
    }
    let ids = event_ids.iter().enumerate();
    let ids = ids.map(|(index, id)| EventId(f.uuid(&format!("event_ids[{index}]"), id)));
    Some(Selected::EventIds(ids.collect()))
}

/// Converts a purge of a spirit.
pub(crate) fn spirit_purge(request: pb::PurgeSpiritRequest, caller: Editor) -> Result<SpiritPurge, Invalid> {
    let pb::PurgeSpiritRequest { spirit_id, reason } = request;
    let mut f = Fields::default();
    let purge = SpiritPurge {
        spirit_id: SpiritId(f.uuid("spirit_id", &spirit_id)),
        reason: purge_reason(&mut f, reason),
        requested_by: caller.key_prefix,
    };
    f.finish(purge)
}

fn purge_reason(f: &mut Fields, reason: Option<String>) -> Option<String> {
    reason.map(|reason| f.chars("reason", reason, PURGE_REASON_CHARS_MAX))
}

/// Converts a list of purges. Also returns the hash in its page tokens.
pub(crate) fn list_purges(
    request: pb::ListPurgesRequest,
    scope: &SpiritScope,
) -> Result<(PurgeQuery, QueryHash), ApiError> {
    let pb::ListPurgesRequest {
        spirit_id,
        page_size,
        page_token,
    } = request;
    let mut f = Fields::default();
    let spirit_id = spirit_id.map(|text| SpiritId(f.uuid("spirit_id", &text)));
    let size = f.page_size("page_size", page_size);
    f.finish(())?;

    let named = spirit_id.as_ref().map(|id| id.0.as_bytes().as_slice());
    let hash = QueryHash::of("ListPurges", &[named]);
    let query = PurgeQuery {
        scope: scope.narrow(spirit_id),
        after: page_start(hash, &page_token)?,
        size,
    };
    Ok((query, hash))
}

/// Converts a page of purges.
pub(crate) fn purge_page(page: PurgePage, query: QueryHash) -> pb::ListPurgesResponse {
    let (purges, next_page_token) = paginate(page.purges, page.more, query, Purge::position, purge);
    pb::ListPurgesResponse {
        purges,
        next_page_token,
    }
}

/// Converts the retention of a spirit.
pub(super) fn retention(f: &mut Fields, retention: pb::Retention) -> Retention {
    let pb::Retention {
        max_age,
        deleted_max_age,
        history_max_age,
    } = retention;
    let mut age = |field, given: Option<_>| given.and_then(|given| age(f, field, given));
    Retention {
        max_age: age("retention.max_age", max_age),
        deleted_max_age: age("retention.deleted_max_age", deleted_max_age),
        history_max_age: age("retention.history_max_age", history_max_age),
    }
}

/// Converts an age, truncated to whole microseconds.
fn age(f: &mut Fields, field: &str, age: prost_types::Duration) -> Option<Duration> {
    let age = Duration::try_from(age).ok();
    let age = age.filter(|age| (Retention::AGE_MIN..=Retention::AGE_MAX).contains(age));
    if age.is_none() {
        f.refuse(
            field,
            format_args!(
                "must be {} s (1 hour) to {} s (100 years)",
                Retention::AGE_MIN.as_secs(),
                Retention::AGE_MAX.as_secs()
            ),
        );
    }
    age.map(|age| Duration::from_micros(u64::try_from(age.as_micros()).unwrap_or(u64::MAX)))
}
