//! The API key of a request in its handler, and the spirits that the caller may see.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::keyring::CachedKey;
use crate::domain::access::{Access, Editor, SpiritScope};
use crate::domain::ids::SpiritId;
use crate::grpc::status::ApiError;

/// The caller's API key. The auth layer adds it to the extensions of the request.
#[derive(Clone)]
pub(super) struct Caller(pub(super) Arc<CachedKey>);

/// Returns the spirits that the caller may see: none if the request did not pass the auth layer.
pub(in crate::grpc) fn spirit_scope<T>(request: &Request<T>) -> SpiritScope {
    let caller = request.extensions().get::<Caller>();
    caller.map_or_else(SpiritScope::none, |Caller(key)| key.scope.clone())
}

/// Returns the caller of an edit of events. It may see no spirit if the request did not pass the auth layer.
pub(in crate::grpc) fn editor<T>(request: &Request<T>) -> Editor {
    Editor {
        scope: spirit_scope(request),
        key_prefix: access(request).ok().and_then(|access| access.key_prefix),
    }
}

/// Returns what the caller may do. Fails if the request did not pass the auth layer.
pub(in crate::grpc) fn access<T>(request: &Request<T>) -> Result<Access, ApiError> {
    let caller = request.extensions().get::<Caller>();
    let Caller(key) = caller.ok_or(ApiError::MissingKey)?;
    Ok(key.access())
}

/// Returns the reply to a read of one spirit. If the caller may not see the spirit, nothing is read and the reply
/// is empty, as it is for a spirit that does not exist.
pub(in crate::grpc) async fn reply_in_scope<T: Default>(
    scope: &SpiritScope,
    spirit_id: SpiritId,
    read: impl Future<Output = Result<T, Status>>,
) -> Result<Response<T>, Status> {
    let reply = if scope.holds(spirit_id) {
        read.await?
    } else {
        T::default()
    };
    Ok(Response::new(reply))
}
