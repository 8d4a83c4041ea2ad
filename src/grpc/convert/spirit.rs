//! Requests of `SpiritService`.

use super::edit::{Mask, expected_revision, meta_change};
use super::meta;
use crate::domain::access::SpiritScope;
use crate::domain::cursor::{NamedSpiritPlace, NewestSpiritPlace, decode, encode};
use crate::domain::edit::{SpiritEdit, SpiritTarget};
use crate::domain::filter::QueryHash;
use crate::domain::ids::SpiritId;
use crate::domain::invalid::{Fields, Invalid};
use crate::domain::limits::{DESCRIPTION_BYTES_MAX, Limits, NAME_CHARS_MAX};
use crate::domain::meta::Meta;
use crate::domain::spirit::{NewSpirit, Spirit, fold_name};
use crate::grpc::pb;
use crate::grpc::status::ApiError;
use crate::store::{SpiritOrder, SpiritQuery};

pub(crate) fn new_spirit(request: pb::CreateSpiritRequest, limits: &Limits) -> Result<NewSpirit, Invalid> {
    let pb::CreateSpiritRequest {
        name,
        description,
        meta: meta_struct,
    } = request;
    let mut f = Fields::default();
    let spirit = NewSpirit {
        id: SpiritId::generate(),
        name: f.chars("name", name, NAME_CHARS_MAX),
        description: description.map(|text| f.bytes("description", text, DESCRIPTION_BYTES_MAX)),
        meta: meta_struct.map_or_else(Meta::empty, |value| {
            meta(&mut f, "meta", &value, limits.meta_bytes_max)
        }),
    };
    f.finish(spirit)
}

pub(crate) fn get_spirit(request: &pb::GetSpiritRequest) -> Result<(SpiritId, bool), Invalid> {
    let pb::GetSpiritRequest {
        spirit_id,
        include_deleted,
    } = request;
    let mut f = Fields::default();
    let id = SpiritId(f.uuid("spirit_id", spirit_id));
    f.finish((id, *include_deleted))
}

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
        expected_revision: revision,
    } = request;
    let mut f = Fields::default();
    let target = SpiritTarget {
        id: SpiritId(f.uuid("spirit_id", &spirit_id)),
        expected_revision: expected_revision(&mut f, revision),
    };
    let mask = Mask::read(
        &mut f,
        update_mask,
        &["name", "description", "meta", "is_deleted"],
    );
    let name = name.map(|text| f.chars("name", text, NAME_CHARS_MAX));
    let description = description.map(|text| f.bytes("description", text, DESCRIPTION_BYTES_MAX));
    let meta = meta_struct.map(|value| meta(&mut f, "meta", &value, limits.meta_bytes_max));
    let edit = SpiritEdit {
        name: mask.required(&mut f, "name", name),
        description: mask.clearable("description", description),
        meta: meta_change(&mut f, &mask, meta, meta_mode),
        is_deleted: mask.required(&mut f, "is_deleted", is_deleted),
        meta_bytes_max: limits.meta_bytes_max,
    };
    f.finish((target, edit))
}

pub(crate) fn spirit_deletion(spirit_id: &str, revision: Option<i64>) -> Result<SpiritTarget, Invalid> {
    let mut f = Fields::default();
    let target = SpiritTarget {
        id: SpiritId(f.uuid("spirit_id", spirit_id)),
        expected_revision: expected_revision(&mut f, revision),
    };
    f.finish(target)
}

/// A list of spirits and how its tokens are made.
pub(crate) struct SpiritList {
    pub(crate) query: SpiritQuery,
    pub(crate) tokens: SpiritTokens,
}

/// Makes the tokens of a list of spirits.
pub(crate) struct SpiritTokens {
    hash: QueryHash,
    by_name: bool,
}

pub(crate) fn list_spirits(
    request: pb::ListSpiritsRequest,
    scope: SpiritScope,
) -> Result<SpiritList, ApiError> {
    let pb::ListSpiritsRequest {
        name_contains,
        include_deleted,
        page_size,
        page_token,
        offset,
    } = request;
    let mut f = Fields::default();
    let name_contains = name_contains.map(|text| f.chars("name_contains", text, NAME_CHARS_MAX));
    let size = f.page_size("page_size", page_size);
    let offset = f.count("offset", offset);
    if offset > 0 && !page_token.is_empty() {
        f.refuse("offset", "must not be given together with page_token");
    }
    f.finish(())?;

    let contains_folded = name_contains.as_deref().map(fold_name);
    let hash = QueryHash::of(
        "ListSpirits",
        &[
            contains_folded.as_deref().map(str::as_bytes),
            Some(&[u8::from(include_deleted)]),
        ],
    );
    let token = (!page_token.is_empty()).then_some(page_token.as_str());
    let by_name = contains_folded.is_some();
    let invalid = |_| ApiError::InvalidCursor("page_token");
    let order = match contains_folded {
        None => SpiritOrder::Newest {
            after: token
                .map(|token| decode::<NewestSpiritPlace>(hash, token))
                .transpose()
                .map_err(invalid)?,
        },
        Some(contains_folded) => SpiritOrder::Named {
            contains_folded,
            after: token
                .map(|token| decode::<NamedSpiritPlace>(hash, token))
                .transpose()
                .map_err(invalid)?,
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

impl SpiritTokens {
    /// The token of the page behind this spirit.
    pub(crate) fn behind(&self, last: &Spirit) -> String {
        if self.by_name {
            let place = NamedSpiritPlace {
                name_folded: fold_name(&last.name),
                id: last.id,
            };
            return encode(self.hash, &place);
        }
        let place = NewestSpiritPlace {
            created_at: last.created_at,
            id: last.id,
        };
        encode(self.hash, &place)
    }
}
