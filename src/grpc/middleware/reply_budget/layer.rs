//! The layer that charges unary replies.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::{BoxFuture, poll_fn};
use http::{Request, Response};
use http_body::Body;
use tonic::Status;
use tower::{Layer, Service};

use super::connection::{ConnectionReplies, Effect, Reservation};
use super::sliced_body::{SLICE_BYTES, SlicedBody};
use crate::domain::limits::PAGE_BYTES;
use crate::grpc::call_info;
use crate::grpc::middleware::methods::{self, UnaryMethod};

/// Number of small replies in flight from which on the end of a call's API key is stored.
const SMALL_REPLIES_MAX: usize = 16;

/// Charges unary replies to the [`ConnectionReplies`] in the extensions of their request. It must be inside
/// the layer that checks API keys, so that callers without a key reserve nothing.
#[derive(Clone, Copy, Debug)]
pub struct ReplyLayer;

/// The service of a [`ReplyLayer`].
#[derive(Clone)]
pub struct ReplyService<S>(S);

impl<S> Layer<S> for ReplyLayer {
    type Service = ReplyService<S>;

    fn layer(&self, inner: S) -> ReplyService<S> {
        ReplyService(inner)
    }
}

impl<S, I, O> Service<Request<I>> for ReplyService<S>
where
    S: Service<Request<I>, Response = Response<O>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    I: Send + 'static,
    O: Body<Data = Bytes> + Default + Unpin + Send + 'static,
    O::Error: Send,
{
    type Response = Response<SlicedBody<O>>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<I>) -> Self::Future {
        let connection = request.extensions().get::<Arc<ConnectionReplies>>().cloned();
        let Some((connection, method)) = connection.zip(methods::unary(request.uri().path())) else {
            let call = self.0.call(request);
            return Box::pin(async move { Ok(call.await?.map(SlicedBody::new)) });
        };
        // The call must be made on the instance whose `poll_ready` was called.
        let clone = self.0.clone();
        let mut service = std::mem::replace(&mut self.0, clone);
        Box::pin(async move {
            let (reserved, effect) = match method {
                UnaryMethod::Read => (0, Effect::Read),
                UnaryMethod::ReadPage => (PAGE_BYTES, Effect::Read),
                UnaryMethod::Create => (0, Effect::Write),
                UnaryMethod::Edit => (PAGE_BYTES, Effect::Write),
            };
            let reservation = match connection.admit(reserved).await {
                Ok(reservation) => reservation,
                Err(error) => return Ok(Status::from(error).into_http()),
            };
            let response = service.call(request).await?;
            Ok(charge(response, &connection, reservation, effect).await)
        })
    }
}

/// Encodes a unary reply and charges it. Returns an error instead of the reply if it exceeds the budget.
async fn charge<O>(
    response: Response<O>,
    connection: &ConnectionReplies,
    reservation: Reservation,
    effect: Effect,
) -> Response<SlicedBody<O>>
where
    O: Body<Data = Bytes> + Default + Unpin,
{
    let (parts, mut body) = response.into_parts();
    let first = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
    let mut sliced = SlicedBody::new(body);
    match first {
        Some(Ok(frame)) => match frame.into_data() {
            Ok(data) => {
                if data.len() > SLICE_BYTES || connection.in_flight() >= SMALL_REPLIES_MAX {
                    store_key_end(connection);
                }
                match connection.charge(reservation, data.len(), effect) {
                    Ok(in_flight) => sliced.start(data, in_flight),
                    Err(error) => return Status::from(error).into_http(),
                }
            }
            Err(frame) => sliced.trailers = frame.into_trailers().ok(),
        },
        Some(Err(error)) => sliced.error = Some(error),
        None => {}
    }
    Response::from_parts(parts, sliced)
}

fn store_key_end(connection: &ConnectionReplies) {
    if let Some(end) = call_info::current().and_then(|call| call.key_end.get().cloned()) {
        connection.set_key_end(end);
    }
}
