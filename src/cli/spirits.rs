//! Resolves the name or id of a spirit.

use super::call::{present, spirit_client};
use super::client::{Connection, explain, strong};
use super::failure::{CommandError, Failure};
use super::printable::printable;
use crate::domain::ids::parse_uuid;
use crate::grpc::pb::spirit_service_client::SpiritServiceClient;
use crate::grpc::pb::{CreateSpiritRequest, GetSpiritRequest, ListSpiritsRequest, Spirit};

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
    let mut named = named(&mut spirits, name_or_id).await?;
    match (named.pop(), unknown) {
        (Some(only), _) if named.is_empty() => Ok(only.id),
        (Some(last), _) => {
            named.push(last);
            let ids: Vec<String> = named.into_iter().map(|spirit| spirit.id).collect();
            let text = format!(
                "several spirits are named \"{}\"; give one of their ids instead:\n  {}",
                printable(name_or_id),
                ids.join("\n  ")
            );
            Err(CommandError::new(Failure::Conflict, text).into())
        }
        (None, UnknownName::Refuse) => {
            let text = format!("no spirit is named \"{}\"", printable(name_or_id));
            Err(CommandError::new(Failure::NotFound, text).into())
        }
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
