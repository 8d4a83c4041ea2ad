//! `SpiritService`: convert, one call, convert.

use tonic::{Request, Response, Status};

use super::auth::spirit_scope;
use super::consistency::consistency;
use super::convert::spirit::{
    SpiritList, get_spirit, list_spirits, new_spirit, spirit_deletion, spirit_edit,
};
use super::event_service::within_budget;
use super::status::ApiError;
use super::{Context, convert, pb};
use crate::domain::edit::{SpiritEdit, SpiritTarget};
use crate::domain::refusal::Refusal;

/// The service.
#[derive(Clone)]
pub struct SpiritApi(pub Context);

#[tonic::async_trait]
impl pb::spirit_service_server::SpiritService for SpiritApi {
    async fn create_spirit(
        &self,
        request: Request<pb::CreateSpiritRequest>,
    ) -> Result<Response<pb::CreateSpiritResponse>, Status> {
        let new = new_spirit(request.into_inner(), &self.0.limits).map_err(ApiError::from)?;
        let spirit = self
            .0
            .store
            .write
            .create_spirit(new)
            .await
            .map_err(ApiError::from)?;
        Ok(Response::new(pb::CreateSpiritResponse {
            spirit: Some(convert::spirit_message(spirit)),
        }))
    }

    async fn get_spirit(
        &self,
        request: Request<pb::GetSpiritRequest>,
    ) -> Result<Response<pb::GetSpiritResponse>, Status> {
        let mut reader = self.0.store.read(consistency(&request)?);
        let (id, include_deleted) = get_spirit(request.get_ref()).map_err(ApiError::from)?;
        spirit_scope(&request).check(id).map_err(ApiError::from)?;
        let spirit = reader
            .get_spirit(id, include_deleted)
            .await
            .map_err(ApiError::from)?;
        let spirit = spirit.ok_or(ApiError::from(Refusal::SpiritNotFound(id)))?;
        Ok(Response::new(pb::GetSpiritResponse {
            spirit: Some(convert::spirit_message(spirit)),
        }))
    }

    async fn list_spirits(
        &self,
        request: Request<pb::ListSpiritsRequest>,
    ) -> Result<Response<pb::ListSpiritsResponse>, Status> {
        let scope = spirit_scope(&request);
        let mut reader = self.0.store.read(consistency(&request)?);
        let SpiritList { query, tokens } = list_spirits(request.into_inner(), scope)?;
        let page = reader.list_spirits(query).await.map_err(ApiError::from)?;
        let tokens_of: Vec<_> = page.spirits.iter().map(|spirit| tokens.behind(spirit)).collect();
        let (spirits, cut) = within_budget(page.spirits.into_iter().map(convert::spirit_message));
        let next_page_token = match spirits
            .len()
            .checked_sub(1)
            .and_then(|last| tokens_of.into_iter().nth(last))
        {
            Some(token) if cut || page.more => token,
            _ => String::new(),
        };
        Ok(Response::new(pb::ListSpiritsResponse {
            spirits,
            next_page_token,
        }))
    }

    async fn update_spirit(
        &self,
        request: Request<pb::UpdateSpiritRequest>,
    ) -> Result<Response<pb::UpdateSpiritResponse>, Status> {
        let scope = spirit_scope(&request);
        let (target, edit) = spirit_edit(request.into_inner(), &self.0.limits).map_err(ApiError::from)?;
        scope.check(target.id).map_err(ApiError::from)?;
        let spirit = self.edited(target, &edit).await?;
        Ok(Response::new(pb::UpdateSpiritResponse { spirit }))
    }

    async fn soft_delete_spirit(
        &self,
        request: Request<pb::SoftDeleteSpiritRequest>,
    ) -> Result<Response<pb::SoftDeleteSpiritResponse>, Status> {
        let scope = spirit_scope(&request);
        let pb::SoftDeleteSpiritRequest {
            spirit_id,
            expected_revision,
        } = request.into_inner();
        let target = spirit_deletion(&spirit_id, expected_revision).map_err(ApiError::from)?;
        scope.check(target.id).map_err(ApiError::from)?;
        let spirit = self.edited(target, &SpiritEdit::deletion(true)).await?;
        Ok(Response::new(pb::SoftDeleteSpiritResponse { spirit }))
    }

    async fn restore_spirit(
        &self,
        request: Request<pb::RestoreSpiritRequest>,
    ) -> Result<Response<pb::RestoreSpiritResponse>, Status> {
        let scope = spirit_scope(&request);
        let pb::RestoreSpiritRequest {
            spirit_id,
            expected_revision,
        } = request.into_inner();
        let target = spirit_deletion(&spirit_id, expected_revision).map_err(ApiError::from)?;
        scope.check(target.id).map_err(ApiError::from)?;
        let spirit = self.edited(target, &SpiritEdit::deletion(false)).await?;
        Ok(Response::new(pb::RestoreSpiritResponse { spirit }))
    }

    async fn count_spirits(
        &self,
        request: Request<pb::CountSpiritsRequest>,
    ) -> Result<Response<pb::CountSpiritsResponse>, Status> {
        let scope = spirit_scope(&request);
        let mut reader = self.0.store.read(consistency(&request)?);
        let pb::CountSpiritsRequest { include_deleted } = request.into_inner();
        let count = reader
            .count_spirits(&scope, include_deleted)
            .await
            .map_err(ApiError::from)?;
        Ok(Response::new(pb::CountSpiritsResponse { count }))
    }
}

impl SpiritApi {
    /// Edits a spirit: as it then is.
    async fn edited(&self, target: SpiritTarget, edit: &SpiritEdit) -> Result<Option<pb::Spirit>, ApiError> {
        let spirit = self.0.store.write.edit_spirit(target, edit).await?;
        Ok(Some(convert::spirit_message(spirit)))
    }
}
