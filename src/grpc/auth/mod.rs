//! Authentication and authorization: a layer that checks API keys before a call does any work.
//!
//! The layer checks the role and the limits of the key against the RPC. The handlers check which spirits the
//! key may see, with [`spirit_scope`]. The [`keyring`] caches the keys in use, so that a call needs no query.

mod caller;
mod keyring;
mod limits;
mod rules;

use std::future::ready;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;
use tower::{Layer, Service};

use super::call_info;
use super::middleware::body::AbortableBody;
use super::status::ApiError;
use crate::config::Reflection;
use crate::domain::access::{Permission, SpiritScope};
use caller::Caller;
use keyring::{CachedKey, Lookup};
use rules::Requirement;

pub(super) use caller::{access, editor, reply_in_scope, spirit_scope};
pub use keyring::Keyring;

/// Refuses calls that the caller's API key does not allow.
#[derive(Clone)]
pub struct AuthLayer {
    pub keyring: Keyring,
    /// Access to reflection.
    pub reflection: Reflection,
}

/// The service of an [`AuthLayer`].
#[derive(Clone)]
pub struct AuthService<S> {
    inner: S,
    layer: AuthLayer,
}

impl<S> Layer<S> for AuthLayer {
    type Service = AuthService<S>;

    fn layer(&self, inner: S) -> AuthService<S> {
        AuthService {
            inner,
            layer: self.clone(),
        }
    }
}

impl<S, I, O> Service<Request<I>> for AuthService<S>
where
    S: Service<Request<I>, Response = Response<O>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    I: Send + 'static,
    O: Default + Send + 'static,
{
    type Response = Response<AbortableBody<O>>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<I>) -> Self::Future {
        let requirement = Requirement::of(request.uri().path(), self.layer.reflection);
        if requirement == Requirement::Nothing {
            let call = self.inner.call(request);
            return Box::pin(async move { Ok(call.await?.map(AbortableBody::new)) });
        }
        match self.layer.keyring.cached(request.headers()) {
            Ok(Lookup::Hit(key)) => forward(&mut self.inner, request, key, requirement),
            Ok(Lookup::Miss(digest)) => {
                let keyring = self.layer.keyring.clone();
                // The call must be made on the instance whose `poll_ready` was called.
                let clone = self.inner.clone();
                let mut inner = std::mem::replace(&mut self.inner, clone);
                Box::pin(async move {
                    match keyring.look_up(&digest).await {
                        Ok(key) => forward(&mut inner, request, key, requirement).await,
                        Err(error) => Ok(refuse(&keyring, error).await),
                    }
                })
            }
            Err(error) => {
                let keyring = self.layer.keyring.clone();
                Box::pin(async move { Ok(refuse(&keyring, error).await) })
            }
        }
    }
}

/// Answers a call without a valid key. The answer to a wrong key may be delayed.
async fn refuse<O: Default>(keyring: &Keyring, error: ApiError) -> Response<O> {
    if matches!(error, ApiError::InvalidKey) {
        keyring.delay_refusal().await;
    }
    Status::from(error).into_http()
}

/// Passes the call to the inner service if the key allows it.
fn forward<S, I, O>(
    inner: &mut S,
    mut request: Request<I>,
    key: Arc<CachedKey>,
    requirement: Requirement,
) -> BoxFuture<'static, Result<Response<AbortableBody<O>>, S::Error>>
where
    S: Service<Request<I>, Response = Response<O>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    O: Default + Send + 'static,
{
    if let (Some(call), Some(name)) = (call_info::current(), &key.name) {
        call.key.get_or_init(|| Arc::clone(name));
        call.key_end.get_or_init(|| key.end());
    }
    let permit = match authorize(&key, requirement, request.uri().path()) {
        Ok(permit) => permit,
        Err(error) => {
            let refused = Status::from(error).into_http();
            return Box::pin(ready(Ok(refused)));
        }
    };
    request.extensions_mut().insert(Caller(Arc::clone(&key)));
    let call = key.tenant().scope(inner.call(request));
    Box::pin(async move {
        let response = call.await?;
        if !requirement.may_outlast_key() {
            return Ok(response.map(AbortableBody::new));
        }
        let revoked = async move {
            let _permit = permit;
            key.revoked().await
        };
        Ok(response.map(|body| AbortableBody::abort_on(body, revoked)))
    })
}

/// Checks permission and limits of a key. Returns the permit of a stream, which has to be held until the
/// stream ends.
fn authorize(
    key: &CachedKey,
    requirement: Requirement,
    path: &str,
) -> Result<Option<OwnedSemaphorePermit>, ApiError> {
    key.limiter.check_call()?;
    match requirement {
        Requirement::Nothing | Requirement::AnyKey => Ok(None),
        Requirement::Unlisted if key.name.is_none() => Ok(None),
        Requirement::Unlisted => Err(ApiError::NotAllowed(format!("no key may call {path}"))),
        Requirement::Permission {
            permission,
            is_stream,
        } => {
            if !key.role.allows(permission) {
                let role = key.role.name();
                return Err(ApiError::NotAllowed(format!(
                    "a key of role {role} may not call {path}"
                )));
            }
            if permission == Permission::CreateSpirits && key.scope != SpiritScope::All {
                let rule = "a key that is limited to some spirits may not create spirits";
                return Err(ApiError::NotAllowed(rule.to_owned()));
            }
            if is_stream {
                return key.limiter.acquire_stream();
            }
            Ok(None)
        }
    }
}
