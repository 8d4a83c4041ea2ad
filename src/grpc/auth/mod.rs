//! Who calls: the layer that checks keys before any work is done, and what each key may do.
//!
//! The layer decides by the RPC alone; which spirits a key knows of the handlers ask by [`scope`]. Keys
//! that were used lately are known to the [`keyring`] without asking the database.

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
use super::middleware::body::EndingBody;
use super::status::ApiError;
use crate::domain::access::{Permission, SpiritScope};
use keyring::{Known, Session};
use rules::Need;

pub use keyring::Keyring;
pub use limits::KeyLimits;
pub use rules::Reflection;

/// Who makes a call, in the extensions of its request.
#[derive(Clone)]
struct Caller(Arc<Session>);

/// The spirits that the caller knows of; none for a call that passed no [`AuthLayer`].
pub(super) fn spirit_scope<T>(request: &tonic::Request<T>) -> SpiritScope {
    let caller = request.extensions().get::<Caller>();
    caller.map_or_else(SpiritScope::none, |Caller(session)| session.scope.clone())
}

/// Lets only those calls through that their key allows.
#[derive(Clone)]
pub struct AuthLayer {
    pub keyring: Keyring,
    /// Who may use reflection.
    pub reflection: Reflection,
}

/// The service that the layer makes.
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
    type Response = Response<EndingBody<O>>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<I>) -> Self::Future {
        let need = Need::of(request.uri().path(), self.layer.reflection);
        if need == Need::Nothing {
            let call = self.inner.call(request);
            return Box::pin(async move { Ok(call.await?.map(EndingBody::unlimited)) });
        }
        match self.layer.keyring.known(request.headers()) {
            Ok(Known::Session(session)) => enter(&mut self.inner, request, session, need),
            Ok(Known::Ask(mark)) => {
                let keyring = self.layer.keyring.clone();
                // The one that was asked whether it is ready must take the call.
                let ready = self.inner.clone();
                let mut inner = std::mem::replace(&mut self.inner, ready);
                Box::pin(async move {
                    match keyring.look_up(&mark).await {
                        Ok(session) => enter(&mut inner, request, session, need).await,
                        Err(error) => Ok(Status::from(error).into_http()),
                    }
                })
            }
            Err(error) => Box::pin(ready(Ok(Status::from(error).into_http()))),
        }
    }
}

/// Hands the call on, if its caller may make it.
fn enter<S, I, O>(
    inner: &mut S,
    mut request: Request<I>,
    session: Arc<Session>,
    need: Need,
) -> BoxFuture<'static, Result<Response<EndingBody<O>>, S::Error>>
where
    S: Service<Request<I>, Response = Response<O>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    O: Default + Send + 'static,
{
    if let (Some(call), Some(name)) = (call_info::current(), &session.name) {
        call.key.get_or_init(|| Arc::clone(name));
    }
    let permit = match admit(&session, need, request.uri().path()) {
        Ok(permit) => permit,
        Err(error) => {
            let refused = Status::from(error).into_http();
            return Box::pin(ready(Ok(refused)));
        }
    };
    request.extensions_mut().insert(Caller(Arc::clone(&session)));
    let call = inner.call(request);
    Box::pin(async move {
        let response = call.await?;
        if !need.can_last() {
            return Ok(response.map(EndingBody::unlimited));
        }
        let end = async move {
            let _permit = permit;
            session.ended().await
        };
        Ok(response.map(|body| EndingBody::until(body, end)))
    })
}

/// Whether the caller may make the call now; of a stream, with its place among the caller's streams.
fn admit(session: &Session, need: Need, path: &str) -> Result<Option<OwnedSemaphorePermit>, ApiError> {
    session.limits.take_call()?;
    match need {
        Need::Nothing | Need::AnyKey => Ok(None),
        Need::Unknown if session.name.is_none() => Ok(None),
        Need::Unknown => Err(ApiError::NotAllowed(format!("no key may call {path}"))),
        Need::Permission { right, is_stream } => {
            if !session.role.allows(right) {
                let role = session.role.name();
                return Err(ApiError::NotAllowed(format!(
                    "a key of role {role} may not call {path}"
                )));
            }
            if right == Permission::CreateSpirits && session.scope != SpiritScope::All {
                let rule = "a key that is limited to some spirits may not create spirits";
                return Err(ApiError::NotAllowed(rule.to_owned()));
            }
            if is_stream {
                return session.limits.take_stream();
            }
            Ok(None)
        }
    }
}
