//! Resolves the name or id of a spirit, by a server or in the database.

use std::fmt;

use tonic::Status;

use super::call::spirit_client;
use super::client::{Connection, explain, strong};
use super::failure::{CommandError, Failure};
use super::printable::printable;
use super::retry::retried;
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
pub(super) async fn resolve(channel: Connection, name_or_id: &str) -> anyhow::Result<String> {
    let found = look_up(channel, name_or_id, UnknownName::Refuse).await;
    Ok(found.map_err(explain)??)
}

/// As [`resolve`], and calls again while the server is away or overloaded.
pub(super) async fn resolve_patiently(
    channel: Connection,
    name_or_id: &str,
    unknown: UnknownName,
) -> anyhow::Result<String> {
    // Before a create is repeated, the name is looked up, so a spirit whose create was not answered is found.
    let found = retried(async || look_up(channel.clone(), name_or_id, unknown).await).await;
    Ok(found.map_err(explain)??)
}

async fn look_up(
    channel: Connection,
    name_or_id: &str,
    unknown: UnknownName,
) -> Result<Result<String, CommandError>, Status> {
    let mut spirits = spirit_client(channel);
    if parse_uuid(name_or_id).is_some() {
        let request = GetSpiritRequest {
            spirit_id: name_or_id.to_owned(),
            include_deleted: unknown == UnknownName::Refuse,
        };
        return Ok(id_of(spirits.get_spirit(request).await?.into_inner().spirit));
    }
    let ids = named(&mut spirits, name_or_id).await?;
    match (only(name_or_id, ids), unknown) {
        (Ok(None), UnknownName::Create) => {
            let request = CreateSpiritRequest {
                name: name_or_id.to_owned(),
                ..CreateSpiritRequest::default()
            };
            Ok(id_of(spirits.create_spirit(request).await?.into_inner().spirit))
        }
        (found, _) => Ok(found.and_then(|id| id.ok_or_else(|| unknown_name(name_or_id)))),
    }
}

fn id_of(spirit: Option<Spirit>) -> Result<String, CommandError> {
    let spirit = spirit.ok_or_else(|| CommandError::new(Failure::Other, "the server's reply is empty"))?;
    Ok(spirit.id)
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

/// Returns the ids of the live spirits with exactly this name.
async fn named(spirits: &mut SpiritServiceClient<Connection>, name: &str) -> Result<Vec<String>, Status> {
    let mut request = ListSpiritsRequest {
        name_contains: Some(name.to_owned()),
        ..ListSpiritsRequest::default()
    };
    // With strong consistency a spirit that was just created is found and not created again.
    let mut found = Vec::new();
    loop {
        let page = spirits.list_spirits(strong(request.clone())).await?.into_inner();
        let named = page.spirits.into_iter().filter(|spirit| spirit.name() == name);
        found.extend(named.map(|spirit| spirit.id));
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
