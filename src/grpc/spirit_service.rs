//! The RPCs of `SpiritService`. A handler converts the request, calls the store and converts the result.

use tonic::{Request, Response, Status};

use super::auth::spirit_scope;
use super::consistency::consistency;
use super::context::Context;
use super::{convert, pb};
use crate::domain::access::SpiritScope;
use crate::domain::edit::{SpiritEdit, SpiritTarget};
use crate::domain::refusal::Refusal;

/// Implements `SpiritService`.
#[derive(Clone)]
pub struct SpiritApi(pub Context);

#[tonic::async_trait]
impl pb::spirit_service_server::SpiritService for SpiritApi {
    async fn create_spirit(
        &self,
        request: Request<pb::CreateSpiritRequest>,
    ) -> Result<Response<pb::CreateSpiritResponse>, Status> {
        let spirit = convert::new_spirit(request.into_inner(), &self.0.limits)?;
        let spirit = self.0.store.write.create_spirit(spirit).await?;
        Ok(Response::new(pb::CreateSpiritResponse {
            spirit: Some(convert::spirit(spirit)),
        }))
    }

    async fn get_spirit(
        &self,
        request: Request<pb::GetSpiritRequest>,
    ) -> Result<Response<pb::GetSpiritResponse>, Status> {
        let scope = spirit_scope(&request);
        let mut reader = self.0.store.read(consistency(&request)?);
        let (id, include_deleted) = convert::get_spirit(request.into_inner())?;
        scope.check(id)?;
        let spirit = reader.get_spirit(id, include_deleted).await?;
        let spirit = spirit.ok_or(Refusal::SpiritNotFound(id))?;
        Ok(Response::new(pb::GetSpiritResponse {
            spirit: Some(convert::spirit(spirit)),
        }))
    }

    async fn list_spirits(
        &self,
        request: Request<pb::ListSpiritsRequest>,
    ) -> Result<Response<pb::ListSpiritsResponse>, Status> {
        let scope = spirit_scope(&request);
        let mut reader = self.0.store.read(consistency(&request)?);
        let list = convert::list_spirits(request.into_inner(), scope)?;
        let page = reader.list_spirits(list.query).await?;
        Ok(Response::new(convert::spirit_page(page, &list.tokens)))
    }

    async fn update_spirit(
        &self,
        request: Request<pb::UpdateSpiritRequest>,
    ) -> Result<Response<pb::UpdateSpiritResponse>, Status> {
        let scope = spirit_scope(&request);
        let (target, edit) = convert::spirit_edit(request.into_inner(), &self.0.limits)?;
        let spirit = self.edit(&scope, target, &edit).await?;
        Ok(Response::new(pb::UpdateSpiritResponse { spirit }))
    }

    async fn soft_delete_spirit(
        &self,
        request: Request<pb::SoftDeleteSpiritRequest>,
    ) -> Result<Response<pb::SoftDeleteSpiritResponse>, Status> {
        let scope = spirit_scope(&request);
        let target = convert::soft_delete_spirit(request.into_inner())?;
        let spirit = self.edit(&scope, target, &SpiritEdit::deletion(true)).await?;
        Ok(Response::new(pb::SoftDeleteSpiritResponse { spirit }))
    }

    async fn restore_spirit(
        &self,
        request: Request<pb::RestoreSpiritRequest>,
    ) -> Result<Response<pb::RestoreSpiritResponse>, Status> {
        let scope = spirit_scope(&request);
        let target = convert::restore_spirit(request.into_inner())?;
        let spirit = self.edit(&scope, target, &SpiritEdit::deletion(false)).await?;
        Ok(Response::new(pb::RestoreSpiritResponse { spirit }))
    }

    async fn count_spirits(
        &self,
        request: Request<pb::CountSpiritsRequest>,
    ) -> Result<Response<pb::CountSpiritsResponse>, Status> {
        let scope = spirit_scope(&request);
        let mut reader = self.0.store.read(consistency(&request)?);
        let pb::CountSpiritsRequest { include_deleted } = request.into_inner();
        let count = reader.count_spirits(&scope, include_deleted).await?;
        Ok(Response::new(pb::CountSpiritsResponse { count }))
    }
}

impl SpiritApi {
    /// Edits a spirit within the caller's scope and returns it as edited.
    async fn edit(
        &self,
        scope: &SpiritScope,
        target: SpiritTarget,
        edit: &SpiritEdit,
    ) -> Result<Option<pb::Spirit>, Status> {
        scope.check(target.id)?;
        let spirit = self.0.store.write.edit_spirit(target, edit).await?;
        Ok(Some(convert::spirit(spirit)))
    }
}
