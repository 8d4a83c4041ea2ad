//! The RPCs of `SessionService`. A handler converts the request, calls the store and converts the result.

use tonic::{Request, Response, Status};

use super::auth::{reply_in_scope, spirit_scope};
use super::consistency::consistency;
use super::context::Context;
use super::{convert, pb};
use crate::domain::refusal::Refusal;

/// Implements `SessionService`.
#[derive(Clone)]
pub struct SessionApi(pub Context);

#[tonic::async_trait]
impl pb::session_service_server::SessionService for SessionApi {
    async fn list_sessions(
        &self,
        request: Request<pb::ListSessionsRequest>,
    ) -> Result<Response<pb::ListSessionsResponse>, Status> {
        let scope = spirit_scope(&request);
        let mut reader = self.0.store.read(consistency(&request)?);
        let (query, hash) = convert::list_sessions(request.into_inner(), &self.0.limits)?;
        reply_in_scope(&scope, query.spirit_id, async {
            let page = reader.list_sessions(&query).await?;
            Ok(convert::session_page(page, hash))
        })
        .await
    }

    async fn get_session(
        &self,
        request: Request<pb::GetSessionRequest>,
    ) -> Result<Response<pb::GetSessionResponse>, Status> {
        let scope = spirit_scope(&request);
        let mut reader = self.0.store.read(consistency(&request)?);
        let (spirit_id, session_id) = convert::get_session(request.into_inner())?;
        let session = if scope.holds(spirit_id) {
            reader.get_session(spirit_id, &session_id).await?
        } else {
            None
        };
        let session = session.ok_or(Refusal::SessionNotFound(session_id))?;
        Ok(Response::new(pb::GetSessionResponse {
            session: Some(convert::session(session)),
        }))
    }

    async fn update_session(
        &self,
        request: Request<pb::UpdateSessionRequest>,
    ) -> Result<Response<pb::UpdateSessionResponse>, Status> {
        let scope = spirit_scope(&request);
        let (target, edit) = convert::session_edit(request.into_inner(), &self.0.limits)?;
        scope.check(target.spirit_id)?;
        let session = self.0.store.write.edit_session(&target, &edit).await?;
        Ok(Response::new(pb::UpdateSessionResponse {
            session: Some(convert::session(session)),
        }))
    }
}
