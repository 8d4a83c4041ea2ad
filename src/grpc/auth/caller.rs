//! The caller of a request, and the spirits that the caller may see.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::keyring::CachedKey;
use crate::domain::access::SpiritScope;
use crate::domain::ids::SpiritId;

/// The API key of a call, in the extensions of its request.
#[derive(Clone)]
pub(super) struct Caller(pub(super) Arc<CachedKey>);

/// Returns the spirits that the caller may see; none if the call did not pass the auth layer.
pub(in crate::grpc) fn spirit_scope<T>(request: &Request<T>) -> SpiritScope {
    let caller = request.extensions().get::<Caller>();
    caller.map_or_else(SpiritScope::none, |Caller(key)| key.scope.clone())
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
