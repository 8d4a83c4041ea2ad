//! The RPC of `AccessService`: what the caller's API key may do.

use tonic::{Request, Response, Status};

use super::auth::access;
use super::consistency::consistency;
use super::{convert, pb};

/// Implements `AccessService`.
#[derive(Clone)]
pub struct AccessApi;

#[tonic::async_trait]
impl pb::access_service_server::AccessService for AccessApi {
    async fn get_access(
        &self,
        request: Request<pb::GetAccessRequest>,
    ) -> Result<Response<pb::GetAccessResponse>, Status> {
        consistency(&request)?; // checked only: the key is read when the call is authorised
        Ok(Response::new(convert::access(access(&request)?)))
    }
}
