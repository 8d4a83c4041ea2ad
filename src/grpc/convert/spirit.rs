//! Converts requests of `SpiritService`, and pages of spirits.

use super::edit::{Mask, expected_revision, meta_change};
use super::fields::{meta, offset};
use super::outbound::spirit;
use super::page::{page_start, paginate};
use super::purge::retention;
use crate::domain::access::SpiritScope;
use crate::domain::cursor::{NamedSpiritPosition, NewestSpiritPosition};
use crate::domain::edit::{Change, SpiritEdit, SpiritTarget};
use crate::domain::filter::QueryHash;
use crate::domain::ids::SpiritId;
use crate::domain::invalid::{Fields, Invalid};
use crate::domain::limits::{DESCRIPTION_BYTES_MAX, Limits, NAME_CHARS_MAX};
use crate::domain::meta::Meta;
use crate::domain::spirit::{NewSpirit, Spirit, fold_name};
use crate::grpc::pb;
use crate::grpc::status::ApiError;
use crate::store::{SpiritOrder, SpiritPage, SpiritQuery};

/// Converts a create of a spirit.
pub(crate) fn new_spirit(request: pb::CreateSpiritRequest, limits: &Limits) -> Result<NewSpirit, Invalid> {
    let pb::CreateSpiritRequest {
        name,
        description,
        meta: meta_struct,
        retention: given_retention,
    } = request;
    let mut f = Fields::default();
    let spirit = NewSpirit {
        id: SpiritId::generate(),
        name: f.chars("name", name, NAME_CHARS_MAX),
        description: description.map(|text| f.bytes("description", text, DESCRIPTION_BYTES_MAX)),
        meta: meta_struct.map_or_else(Meta::empty, |value| {
            meta(&mut f, "meta", &value, limits.meta_bytes_max)
        }),
        retention: retention(&mut f, given_retention.unwrap_or_default()),
    };
    f.finish(spirit)
}

/// Converts a read of one spirit: its id, and whether it may be soft-deleted.
pub(crate) fn get_spirit(request: pb::GetSpiritRequest) -> Result<(SpiritId, bool), Invalid> {
    let pb::GetSpiritRequest {
        spirit_id,
        include_deleted,
    } = request;
    let mut f = Fields::default();
    let id = SpiritId(f.uuid("spirit_id", &spirit_id));
    f.finish((id, include_deleted))
}

/// Converts an update of a spirit.
pub(crate) fn spirit_edit(
    request: pb::UpdateSpiritRequest,
    limits: &Limits,
) -> Result<(SpiritTarget, SpiritEdit), Invalid> {
    let pb::UpdateSpiritRequest {
        spirit_id,
        name,
        description,
        meta: meta_struct,
        is_deleted,
        update_mask,
        meta_mode,
        expected_revision,
        retention: given_retention,
    } = request;
    let mut f = Fields::default();
    let target = spirit_target(&mut f, &spirit_id, expected_revision);
    let mask = Mask::read(
        &mut f,
        update_mask,
        &["name", "description", "meta", "is_deleted", "retention"],
    );
    let name = name.map(|text| f.chars("name", text, NAME_CHARS_MAX));
    let description = description.map(|text| f.bytes("description", text, DESCRIPTION_BYTES_MAX));
    let meta = meta_struct.map(|value| meta(&mut f, "meta", &value, limits.meta_bytes_max));
    let edit = SpiritEdit {
        name: mask.required(&mut f, "name", name),
        description: mask.clearable("description", description),
        meta: meta_change(&mut f, &mask, meta, meta_mode),
        is_deleted: mask.required(&mut f, "is_deleted", is_deleted),
        retention: match mask.clearable("retention", given_retention) {
            Change::Keep => Change::Keep,
            Change::Set(given) => Change::Set(retention(&mut f, given.unwrap_or_default())),
        },
        meta_bytes_max: limits.meta_bytes_max,
    };
    f.finish((target, edit))
}

/// Converts a soft delete of a spirit.
pub(crate) fn soft_delete_spirit(request: pb::SoftDeleteSpiritRequest) -> Result<SpiritTarget, Invalid> {
    let pb::SoftDeleteSpiritRequest {
        spirit_id,
        expected_revision,
    } = request;
    let mut f = Fields::default();
    let target = spirit_target(&mut f, &spirit_id, expected_revision);
    f.finish(target)
}

/// Converts a restore of a spirit, which has the same fields as a soft delete.
pub(crate) fn restore_spirit(request: pb::RestoreSpiritRequest) -> Result<SpiritTarget, Invalid> {
    let pb::RestoreSpiritRequest {
        spirit_id,
        expected_revision,
    } = request;
    soft_delete_spirit(pb::SoftDeleteSpiritRequest {
        spirit_id,
        expected_revision,
    })
}

fn spirit_target(f: &mut Fields, spirit_id: &str, revision: Option<i64>) -> SpiritTarget {
    SpiritTarget {
        id: SpiritId(f.uuid("spirit_id", spirit_id)),
        expected_revision: expected_revision(f, revision),
    }
}

/// A request for a page of spirits, and the data for its next page token.
pub(crate) struct SpiritList {
    pub(crate) query: SpiritQuery,
    pub(crate) tokens: SpiritTokens,
}

/// The data for a page token of a list of spirits: the hash of the query, and the order of the list.
pub(crate) struct SpiritTokens {
    hash: QueryHash,
    by_name: bool,
}

/// Converts a list of the spirits in the scope.
pub(crate) fn list_spirits(
    request: pb::ListSpiritsRequest,
    scope: SpiritScope,
) -> Result<SpiritList, ApiError> {
    let pb::ListSpiritsRequest {
        name_contains,
        include_deleted,
        page_size,
        page_token,
        offset: requested_offset,
    } = request;
    let mut f = Fields::default();
    let name_contains = name_contains.map(|text| f.chars("name_contains", text, NAME_CHARS_MAX));
    let size = f.page_size("page_size", page_size);
    let offset = offset(&mut f, requested_offset, &page_token);
    f.finish(())?;

    let contains_folded = name_contains.as_deref().map(fold_name);
    let hash = QueryHash::of(
        "ListSpirits",
        &[
            contains_folded.as_deref().map(str::as_bytes),
            Some(&[u8::from(include_deleted)]),
        ],
    );
    let by_name = contains_folded.is_some();
    let order = match contains_folded {
        None => SpiritOrder::Newest {
            after: page_start(hash, &page_token)?,
        },
        Some(contains_folded) => SpiritOrder::Named {
            contains_folded,
            after: page_start(hash, &page_token)?,
        },
    };
    let query = SpiritQuery {
        scope,
        order,
        include_deleted,
        offset,
        size,
    };
    let tokens = SpiritTokens { hash, by_name };
    Ok(SpiritList { query, tokens })
}

/// Converts a page of spirits.
pub(crate) fn spirit_page(page: SpiritPage, tokens: &SpiritTokens) -> pb::ListSpiritsResponse {
    let by_name = |spirit: &Spirit| NamedSpiritPosition {
        name_folded: fold_name(&spirit.name),
        id: spirit.id,
    };
    let by_age = |spirit: &Spirit| NewestSpiritPosition {
        created_at: spirit.created_at,
        id: spirit.id,
    };
    let (spirits, next_page_token) = if tokens.by_name {
        paginate(page.spirits, page.more, tokens.hash, by_name, spirit)
    } else {
        paginate(page.spirits, page.more, tokens.hash, by_age, spirit)
    };
    pb::ListSpiritsResponse {
        spirits,
        next_page_token,
    }
}
