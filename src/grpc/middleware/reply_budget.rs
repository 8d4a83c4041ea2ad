//! Bounds the memory of replies that clients have not taken yet.
//!
//! With HTTP/2 a client can make calls and never open its window for the replies. So a unary reply is encoded
//! when it is ready, and its bytes are charged to the budgets of its connection and of the server until the
//! client has taken it. Calls with large replies wait for budget before they run. A reply that exceeds the budget
//! is replaced by RESOURCE_EXHAUSTED. Frames are passed to HTTP/2 in small slices, so that HTTP/2 buffers only
//! one slice of a stalled reply. A connection whose replies make no progress is closed.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::{BoxFuture, poll_fn};
use futures_util::task::AtomicWaker;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use pin_project_lite::pin_project;
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntGauge};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tower::{Layer, Service};

use super::methods;
use crate::grpc::call_info;
use crate::grpc::status::ApiError;
use crate::metrics::Registry;

/// Limits of the replies that clients have not taken yet.
#[derive(Clone, Copy, Debug)]
pub struct ReplyLimits {
    /// Maximum bytes per connection.
    pub connection_bytes_max: usize,
    /// Maximum bytes of all connections.
    pub server_bytes_max: usize,
    /// Time without progress after which a connection is closed.
    pub stall_limit: Duration,
}

/// Bytes per permit of the semaphores.
const BYTES_PER_PERMIT: usize = 1024;
/// Bytes that a call with a large reply reserves before it runs: those of a page of events.
const RESERVED_BYTES: usize = crate::domain::limits::PAGE_BYTES;
/// Maximum time that a call waits for budget.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Maximum bytes of a slice. HTTP/2 buffers at most one slice beyond its window.
const SLICE_BYTES: usize = 16 * 1024;
/// Interval of the search for stalled connections.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Time without progress after which a connection whose API key was revoked or has expired is closed.
const REVOKED_GRACE: Duration = Duration::from_secs(5);

/// The budget of the replies of all connections. Cheap to clone.
#[derive(Clone)]
pub struct ReplyBudget(Arc<Shared>);

struct Shared {
    limits: ReplyLimits,
    permits: Arc<Semaphore>,
    permits_max: u32,
    started: Instant,
    connections: Mutex<Vec<Weak<ConnectionReplies>>>,
    registry: Registry,
    bytes: IntGauge,
    bytes_max: IntGauge,
    refusals: IntCounter,
    closed: IntCounter,
}

/// The budget of the replies of one connection. It is an extension of every request of the connection.
pub struct ConnectionReplies {
    budget: ReplyBudget,
    permits: Arc<Semaphore>,
    permits_max: u32,
    /// Time at which the client last took a slice, in milliseconds since the start of the server.
    progress: AtomicU64,
    /// Cancelled when the API key of the last call is revoked or expires.
    key_end: Mutex<Option<CancellationToken>>,
    is_closed: AtomicBool,
    /// Wakes the task that reads the connection, so that it closes the connection.
    reader: AtomicWaker,
}

/// The budget that one reply uses; dropping it returns the budget.
struct ReplyPermit {
    connection: OwnedSemaphorePermit,
    server: OwnedSemaphorePermit,
}

impl ReplyBudget {
    /// Creates an unused budget and starts the task that closes stalled connections. The task ends with the last
    /// clone. Needs a Tokio runtime.
    #[must_use]
    pub fn start(limits: ReplyLimits) -> Self {
        let registry = Registry::default();
        let permits_max = permits_of(limits.server_bytes_max);
        let budget = Self(Arc::new(Shared {
            limits,
            permits: Arc::new(Semaphore::new(permits_max as usize)),
            permits_max,
            started: Instant::now(),
            connections: Mutex::default(),
            bytes: registry.gauge(
                "events_reply_bytes",
                "Bytes of unary replies that clients have not taken yet, in steps of 1 KiB",
            ),
            bytes_max: registry.gauge(
                "events_reply_bytes_max",
                "Bytes at which calls wait or are refused until clients take their replies",
            ),
            refusals: registry.counter(
                "events_reply_refusals_total",
                "Calls refused because clients have not taken earlier replies",
            ),
            closed: registry.counter(
                "events_stalled_connections_total",
                "Connections closed because their client took no reply for too long",
            ),
            registry,
        }));
        let swept = Arc::downgrade(&budget.0);
        tokio::spawn(async move {
            let mut ticks = interval(SWEEP_INTERVAL);
            loop {
                ticks.tick().await;
                match swept.upgrade() {
                    Some(shared) => shared.close_stalled(),
                    None => return,
                }
            }
        });
        budget
    }

    /// Creates the budget of a new connection.
    #[must_use]
    pub fn connection(&self) -> Arc<ConnectionReplies> {
        let permits_max = permits_of(self.0.limits.connection_bytes_max);
        let connection = Arc::new(ConnectionReplies {
            budget: self.clone(),
            permits: Arc::new(Semaphore::new(permits_max as usize)),
            permits_max,
            progress: AtomicU64::default(),
            key_end: Mutex::default(),
            is_closed: AtomicBool::default(),
            reader: AtomicWaker::new(),
        });
        let mut connections = self.0.connections.lock();
        if connections.len() == connections.capacity() {
            connections.retain(|connection| connection.strong_count() > 0);
        }
        connections.push(Arc::downgrade(&connection));
        connection
    }

    /// Returns the metrics of the budget, with the current value of the gauge.
    #[must_use]
    pub fn metrics(&self) -> Vec<MetricFamily> {
        let used = self.0.permits_max as usize - self.0.permits.available_permits();
        self.0.bytes.set(to_i64(used * BYTES_PER_PERMIT));
        self.0.bytes_max.set(to_i64(self.0.limits.server_bytes_max));
        self.0.registry.gather()
    }
}

impl Shared {
    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn close_stalled(&self) {
        let now = self.now();
        let mut connections = self.connections.lock();
        connections.retain(|connection| {
            let Some(connection) = connection.upgrade() else {
                return false;
            };
            if connection.is_stalled(now) {
                self.closed.inc();
                tracing::info!("a client took no reply for too long, closing its connection");
                connection.close();
            }
            true
        });
    }
}

impl ConnectionReplies {
    /// Ready when the connection has to be closed. Must be polled by the task that reads the connection.
    pub fn poll_closed(&self, cx: &Context<'_>) -> Poll<()> {
        self.reader.register(cx.waker());
        if self.is_closed.load(Ordering::Acquire) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.reader.wake();
    }

    fn record_progress(&self) {
        self.progress.store(self.budget.0.now(), Ordering::Relaxed);
    }

    fn is_stalled(&self, now: u64) -> bool {
        if self.permits.available_permits() == self.permits_max as usize {
            return false;
        }
        let idle = Duration::from_millis(now.saturating_sub(self.progress.load(Ordering::Relaxed)));
        let is_revoked = || {
            self.key_end
                .lock()
                .as_ref()
                .is_some_and(CancellationToken::is_cancelled)
        };
        idle > self.budget.0.limits.stall_limit || (idle > REVOKED_GRACE && is_revoked())
    }

    /// Stores the end of a call's API key, after which the connection is closed if its replies are stalled.
    /// Clients use one key per connection; of several keys, the last one counts.
    fn set_key_end(&self, end: CancellationToken) {
        *self.key_end.lock() = Some(end);
    }

    /// Waits for the budget of a call with a large reply.
    async fn reserve(&self) -> Result<ReplyPermit, ApiError> {
        let permits = permits_of(RESERVED_BYTES)
            .min(self.permits_max)
            .min(self.budget.0.permits_max);
        let acquire = async {
            let connection = Arc::clone(&self.permits).acquire_many_owned(permits).await.ok()?;
            let server = Arc::clone(&self.budget.0.permits)
                .acquire_many_owned(permits)
                .await
                .ok()?;
            Some(ReplyPermit { connection, server })
        };
        let acquired = timeout(WAIT_MAX, acquire).await.ok().flatten();
        acquired.ok_or_else(|| self.refuse())
    }

    /// Charges a reply, using what its call has reserved first. A reply larger than a budget takes all of it.
    fn charge(&self, bytes: usize, reserved: Option<ReplyPermit>) -> Result<ReplyPermit, ApiError> {
        if self.permits.available_permits() == self.permits_max as usize {
            self.record_progress(); // the client has not taken too long before this reply
        }
        let wanted = permits_of(bytes)
            .min(self.permits_max)
            .min(self.budget.0.permits_max);
        let take = |semaphore: &Arc<Semaphore>, held: Option<OwnedSemaphorePermit>| {
            let Some(mut held) = held else {
                return Arc::clone(semaphore).try_acquire_many_owned(wanted).ok();
            };
            let count = u32::try_from(held.num_permits()).unwrap_or(u32::MAX);
            if let Some(surplus) = count.checked_sub(wanted) {
                drop(held.split(surplus as usize));
            } else {
                held.merge(
                    Arc::clone(semaphore)
                        .try_acquire_many_owned(wanted - count)
                        .ok()?,
                );
            }
            Some(held)
        };
        let (connection, server) = reserved.map_or((None, None), |r| (Some(r.connection), Some(r.server)));
        let charged = take(&self.permits, connection).zip(take(&self.budget.0.permits, server));
        match charged {
            Some((connection, server)) => Ok(ReplyPermit { connection, server }),
            None => Err(self.refuse()),
        }
    }

    fn refuse(&self) -> ApiError {
        self.budget.0.refusals.inc();
        ApiError::RepliesNotTaken
    }
}

fn permits_of(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(BYTES_PER_PERMIT).max(1)).unwrap_or(u32::MAX)
}

fn to_i64(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Charges unary replies to the [`ConnectionReplies`] in the extensions of their request.
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
        let path = request.uri().path();
        let (is_unary, is_large) = (methods::is_unary(path), methods::has_large_reply(path));
        // The call must be made on the instance whose `poll_ready` was called.
        let ready = self.0.clone();
        let mut service = std::mem::replace(&mut self.0, ready);
        Box::pin(async move {
            let Some(connection) = connection.filter(|_| is_unary) else {
                let response = service.call(request).await?;
                return Ok(response.map(SlicedBody::new));
            };
            let reserved = if is_large {
                match connection.reserve().await {
                    Ok(reserved) => Some(reserved),
                    Err(error) => return Ok(Status::from(error).into_http()),
                }
            } else {
                None
            };
            let response = service.call(request).await?;
            if let Some(end) = call_info::current().and_then(|call| call.key_end.get().cloned()) {
                connection.set_key_end(end);
            }
            Ok(charge(response, &connection, reserved).await)
        })
    }
}

/// Encodes a unary reply and charges it. Returns an error instead of the reply if it exceeds the budget.
async fn charge<O>(
    response: Response<O>,
    connection: &Arc<ConnectionReplies>,
    reserved: Option<ReplyPermit>,
) -> Response<SlicedBody<O>>
where
    O: Body<Data = Bytes> + Default + Unpin,
{
    let (parts, mut body) = response.into_parts();
    let first = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
    let mut sliced = SlicedBody::new(body);
    match first {
        Some(Ok(frame)) => match frame.into_data() {
            Ok(data) => match connection.charge(data.len(), reserved) {
                Ok(permit) => {
                    sliced.rest = data;
                    sliced.charged = Some(Charged {
                        connection: Arc::clone(connection),
                        _permit: permit,
                    });
                }
                Err(error) => return Status::from(error).into_http(),
            },
            Err(frame) => sliced.trailers = frame.into_trailers().ok(),
        },
        Some(Err(error)) => sliced.error = Some(error),
        None => {}
    }
    Response::from_parts(parts, sliced)
}

/// The budget of a reply, and its connection.
struct Charged {
    connection: Arc<ConnectionReplies>,
    _permit: ReplyPermit,
}

pin_project! {
    /// A body that passes its data on in slices and returns the reply's budget with the last slice.
    pub struct SlicedBody<B: Body<Data = Bytes>> {
        #[pin]
        inner: B,
        rest: Bytes,
        trailers: Option<HeaderMap>,
        error: Option<B::Error>,
        charged: Option<Charged>,
    }
}

impl<B: Body<Data = Bytes>> SlicedBody<B> {
    fn new(inner: B) -> Self {
        Self {
            inner,
            rest: Bytes::new(),
            trailers: None,
            error: None,
            charged: None,
        }
    }
}

impl<B: Body<Data = Bytes> + Default> Default for SlicedBody<B> {
    fn default() -> Self {
        Self::new(B::default())
    }
}

impl<B: Body<Data = Bytes>> Body for SlicedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        if let Some(error) = this.error.take() {
            return Poll::Ready(Some(Err(error)));
        }
        if this.rest.is_empty() {
            if let Some(trailers) = this.trailers.take() {
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
            match std::task::ready!(this.inner.poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => *this.rest = data,
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                other => return Poll::Ready(other),
            }
        }
        let slice = this.rest.split_to(this.rest.len().min(SLICE_BYTES));
        if let Some(charged) = this.charged {
            charged.connection.record_progress();
        }
        if this.rest.is_empty() {
            *this.charged = None;
        }
        Poll::Ready(Some(Ok(Frame::data(slice))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.trailers.is_none() && self.error.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
