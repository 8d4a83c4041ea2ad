//! Resolves the name or id of a spirit, by a server or in the database.

use std::fmt;

use super::call::{present, spirit_client};
use super::client::{Connection, explain, strong};
use super::failure::{CommandError, Failure};
use super::printable::printable;
use crate::domain::access::SpiritScope;
use crate::domain::cursor::NamedSpiritPosition;
use crate::domain::ids::{SpiritId, parse_uuid};
use crate::domain::spirit::fold_name;
use crate::grpc::pb::spirit_service_client::SpiritServiceClient;
use crate::grpc::pb::{CreateSpiritRequest, GetSpiritRequest, ListSpiritsRequest, Spirit};
use crate::store::{Reader, SpiritOrder, SpiritQuery, StoreError};

/// Number of spirits that are read from the database at once.
const PAGE_SPIRITS: usize = 200;

/// The action for a name that no live spirit has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UnknownName {
    Create,
    Refuse,
}

/// Returns the id of a spirit. An id must exist; a name must belong to exactly one live spirit.
pub(super) async fn resolve(
    channel: Connection,
    name_or_id: &str,
    unknown: UnknownName,
) -> anyhow::Result<String> {
    let mut spirits = spirit_client(channel);
    if parse_uuid(name_or_id).is_some() {
        let request = GetSpiritRequest {
            spirit_id: name_or_id.to_owned(),
            include_deleted: unknown == UnknownName::Refuse,
        };
        let reply = spirits.get_spirit(request).await.map_err(explain)?;
        return Ok(present(reply.into_inner().spirit)?.id);
    }
    let named = named(&mut spirits, name_or_id).await?;
    let ids = named.into_iter().map(|spirit| spirit.id).collect();
    match (only(name_or_id, ids)?, unknown) {
        (Some(id), _) => Ok(id),
        (None, UnknownName::Refuse) => Err(unknown_name(name_or_id).into()),
        (None, UnknownName::Create) => {
            let request = CreateSpiritRequest {
                name: name_or_id.to_owned(),
                ..CreateSpiritRequest::default()
            };
            let reply = spirits.create_spirit(request).await.map_err(explain)?;
            Ok(present(reply.into_inner().spirit)?.id)
        }
    }
}

/// Returns the id of a spirit in the database, by the rule of [`resolve`].
pub(super) async fn resolve_stored(spirits: &mut Reader, name_or_id: &str) -> anyhow::Result<SpiritId> {
    if let Some(id) = parse_uuid(name_or_id).map(SpiritId) {
        return match spirits.get_spirit(id, true).await? {
            Some(spirit) => Ok(spirit.id),
            None => Err(CommandError::new(Failure::NotFound, format!("spirit {id} does not exist")).into()),
        };
    }
    let ids = stored_named(spirits, name_or_id).await?;
    only(name_or_id, ids)?.ok_or_else(|| unknown_name(name_or_id).into())
}

/// Returns the id of the spirit that a name selects; `None` if no spirit has the name.
fn only<Id: fmt::Display>(name: &str, mut ids: Vec<Id>) -> Result<Option<Id>, CommandError> {
    if ids.len() < 2 {
        return Ok(ids.pop());
    }
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    let text = format!(
        "several spirits are named \"{}\"; give one of their ids instead:\n  {}",
        printable(name),
        ids.join("\n  ")
    );
    Err(CommandError::new(Failure::Conflict, text))
}

fn unknown_name(name: &str) -> CommandError {
    let text = format!("no spirit is named \"{}\"", printable(name));
    CommandError::new(Failure::NotFound, text)
}

/// Returns the live spirits with exactly this name.
async fn named(spirits: &mut SpiritServiceClient<Connection>, name: &str) -> anyhow::Result<Vec<Spirit>> {
    let mut request = ListSpiritsRequest {
        name_contains: Some(name.to_owned()),
        ..ListSpiritsRequest::default()
    };
    // With strong consistency a spirit that was just created is found and not created again.
    let mut found = Vec::new();
    loop {
        let page = spirits
            .list_spirits(strong(request.clone()))
            .await
            .map_err(explain)?
            .into_inner();
        found.extend(
            page.spirits
                .into_iter()
                .filter(|spirit| spirit.name.as_deref() == Some(name)),
        );
        if page.next_page_token.is_empty() {
            return Ok(found);
        }
        request.page_token = page.next_page_token;
    }
}

/// Returns the ids of the live spirits in the database with exactly this name.
async fn stored_named(spirits: &mut Reader, name: &str) -> Result<Vec<SpiritId>, StoreError> {
    let contains_folded = fold_name(name);
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let query = SpiritQuery {
            scope: SpiritScope::All,
            order: SpiritOrder::Named {
                contains_folded: contains_folded.clone(),
                after,
            },
            include_deleted: false,
            offset: 0,
            size: PAGE_SPIRITS,
        };
        let page = spirits.list_spirits(query).await?;
        after = page.spirits.last().map(|spirit| NamedSpiritPosition {
            name_folded: fold_name(&spirit.name),
            id: spirit.id,
        });
        let named = page.spirits.into_iter().filter(|spirit| spirit.name == name);
        found.extend(named.map(|spirit| spirit.id));
        if !page.more {
            return Ok(found);
        }
    }
}
