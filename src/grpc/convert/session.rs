//! Converts requests of `SessionService`, and pages of sessions.

use super::edit::{Mask, meta_change};
use super::fields::meta;
use super::outbound::session;
use super::page::{page_start, paginate};
use super::timestamp::{time, time_of};
use crate::domain::cursor::encode;
use crate::domain::edit::{Change, SessionEdit, SessionTarget};
use crate::domain::filter::QueryHash;
use crate::domain::ids::SpiritId;
use crate::domain::invalid::{Fields, Invalid};
use crate::domain::limits::{Limits, OWNER_CHARS_MAX, SESSION_ID_CHARS_MAX, TITLE_CHARS_MAX};
use crate::domain::meta::{Meta, MetaChange};
use crate::domain::session::{Session, SessionFilter};
use crate::domain::spirit::fold_name;
use crate::grpc::pb;
use crate::grpc::status::ApiError;
use crate::store::{SessionPage, SessionQuery};

/// Converts a list of sessions. Also returns the hash in its page tokens.
pub(crate) fn list_sessions(
    request: pb::ListSessionsRequest,
    limits: &Limits,
) -> Result<(SessionQuery, QueryHash), ApiError> {
    let pb::ListSessionsRequest {
        spirit_id,
        page_size,
        page_token,
        filter,
        with_counts,
    } = request;
    let mut f = Fields::default();
    let spirit_id = SpiritId(f.uuid("spirit_id", &spirit_id));
    let size = f.page_size("page_size", page_size);
    let filter = session_filter(&mut f, filter.unwrap_or_default(), limits);
    f.finish(())?;

    let hash = hash(spirit_id, &filter);
    let query = SessionQuery {
        spirit_id,
        filter,
        with_counts: with_counts.unwrap_or(true),
        after: page_start(hash, &page_token)?,
        size,
    };
    Ok((query, hash))
}

fn session_filter(f: &mut Fields, filter: pb::SessionFilter, limits: &Limits) -> SessionFilter {
    let pb::SessionFilter {
        owner,
        session_id_prefix,
        title_contains,
        meta_contains,
        active_from,
        active_until,
        include_empty,
    } = filter;
    if let (Some(from), Some(until)) = (active_from.and_then(time_of), active_until.and_then(time_of))
        && from > until
    {
        f.refuse("filter.active_from", "must not be after filter.active_until");
    }
    let mut text = |field, text: Option<String>, chars_max| text.map(|text| f.chars(field, text, chars_max));
    SessionFilter {
        owner: text("filter.owner", owner, OWNER_CHARS_MAX),
        session_id_prefix: text(
            "filter.session_id_prefix",
            session_id_prefix,
            SESSION_ID_CHARS_MAX,
        ),
        title_contains: text("filter.title_contains", title_contains, TITLE_CHARS_MAX),
        meta_contains: meta_contains
            .filter(|value| !value.fields.is_empty())
            .map(|value| meta(f, "filter.meta_contains", &value, limits.meta_bytes_max)),
        active_from: active_from.map(|timestamp| time(f, "filter.active_from", timestamp)),
        active_until: active_until.map(|timestamp| time(f, "filter.active_until", timestamp)),
        include_empty,
    }
}

fn hash(spirit_id: SpiritId, filter: &SessionFilter) -> QueryHash {
    let SessionFilter {
        owner,
        session_id_prefix,
        title_contains,
        meta_contains,
        active_from,
        active_until,
        include_empty,
    } = filter;
    let title_folded = title_contains.as_deref().map(fold_name);
    let times =
        [active_from, active_until].map(|time| time.map(|time| time.timestamp_micros().to_be_bytes()));
    QueryHash::of(
        "ListSessions",
        &[
            Some(spirit_id.0.as_bytes()),
            owner.as_deref().map(str::as_bytes),
            session_id_prefix.as_deref().map(str::as_bytes),
            title_folded.as_deref().map(str::as_bytes),
            meta_contains.as_ref().map(|meta| meta.as_json().as_bytes()),
            times[0].as_ref().map(<[u8; 8]>::as_slice),
            times[1].as_ref().map(<[u8; 8]>::as_slice),
            Some(&[u8::from(*include_empty)]),
        ],
    )
}

/// Converts a page of sessions.
pub(crate) fn session_page(page: SessionPage, query: QueryHash) -> pb::ListSessionsResponse {
    let (sessions, cut_token) = paginate(page.sessions, false, query, Session::position, session);
    let next_page_token = match page.next {
        Some(next) if cut_token.is_empty() => encode(query, &next),
        _ => cut_token,
    };
    pb::ListSessionsResponse {
        sessions,
        next_page_token,
    }
}

/// Converts a read of one session.
pub(crate) fn get_session(request: pb::GetSessionRequest) -> Result<(SpiritId, String), Invalid> {
    let pb::GetSessionRequest {
        spirit_id,
        session_id,
    } = request;
    let mut f = Fields::default();
    let spirit_id = SpiritId(f.uuid("spirit_id", &spirit_id));
    let session_id = f.chars("session_id", session_id, SESSION_ID_CHARS_MAX);
    f.finish((spirit_id, session_id))
}

/// Converts an update of a session.
pub(crate) fn session_edit(
    request: pb::UpdateSessionRequest,
    limits: &Limits,
) -> Result<(SessionTarget, SessionEdit), Invalid> {
    let pb::UpdateSessionRequest {
        spirit_id,
        session_id,
        title,
        owner,
        meta: meta_struct,
        update_mask,
        meta_mode,
        expected_revision,
    } = request;
    let mut f = Fields::default();
    let target = SessionTarget {
        spirit_id: SpiritId(f.uuid("spirit_id", &spirit_id)),
        session_id: f.chars("session_id", session_id, SESSION_ID_CHARS_MAX),
        expected_revision: expected_revision.map(|revision| f.at_least("expected_revision", revision, 0)),
    };
    let mask = Mask::read(&mut f, update_mask, &["title", "owner", "meta"]);
    let title = title.map(|text| f.chars("title", text, TITLE_CHARS_MAX));
    let owner = owner.map(|text| f.chars("owner", text, OWNER_CHARS_MAX));
    let meta = meta_struct.map(|value| meta(&mut f, "meta", &value, limits.meta_bytes_max));
    let edit = SessionEdit {
        title: mask.clearable("title", title),
        owner: mask.clearable("owner", owner),
        meta: clearable_meta(&mut f, &mask, meta, meta_mode),
        meta_bytes_max: limits.meta_bytes_max,
    };
    f.finish((target, edit))
}

/// Checks the fields of an update by the rules of UpdateSession, without a server.
pub fn check_session_update(request: pb::UpdateSessionRequest, limits: &Limits) -> Result<(), Invalid> {
    session_edit(request, limits).map(drop)
}

/// Returns the change of `meta`, which an update may remove.
fn clearable_meta(f: &mut Fields, mask: &Mask, value: Option<Meta>, mode: i32) -> Change<Option<MetaChange>> {
    let is_cleared = value.is_none();
    match meta_change(f, mask, value, mode) {
        Change::Keep => Change::Keep,
        Change::Set(_) if is_cleared => Change::Set(None),
        Change::Set(change) => Change::Set(Some(change)),
    }
}
