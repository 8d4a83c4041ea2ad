//! Every call, once: counted and logged when it ends, under an id that the caller gets back.
//!
//! A stream ends with its trailers, or when its reader goes away. The id and what else belongs to a
//! call are at hand in [`current`] wherever its code runs. Content, meta and secrets are never logged.

mod methods;

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use prometheus::proto::MetricFamily;
use tower::{Layer, Service};

use methods::{Method, Methods};

use super::status::{Concern, Ending};

const REQUEST_ID: &str = "x-request-id";
const TRACE_PARENT: &str = "traceparent";
/// Characters of an id that a caller may choose.
const REQUEST_ID_MAX: usize = 128;

tokio::task_local! {
    static CURRENT: Arc<CallInfo>;
}

/// What belongs to a call, for those who work on it.
#[derive(Debug)]
pub(super) struct CallInfo {
    /// The caller's, or made; visible ASCII.
    request_id: HeaderValue,
    /// The name of the caller's key; whoever checks the key sets it.
    pub(super) key: OnceLock<Arc<str>>,
}

impl CallInfo {
    pub(super) fn request_id(&self) -> &str {
        self.request_id.to_str().unwrap_or_default()
    }

    fn key(&self) -> &str {
        self.key.get().map_or("", |name| name)
    }
}

/// The call that the running code works on; `None` in tasks of their own.
pub(super) fn current() -> Option<Arc<CallInfo>> {
    CURRENT.try_with(Arc::clone).ok()
}

/// Counts and logs calls, all of them if it is the outermost layer. Cheap to clone.
#[derive(Clone)]
pub struct CallLayer(Arc<Methods>);

impl CallLayer {
    /// With nothing counted yet.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Methods::new()))
    }

    /// What was counted up to now.
    #[must_use]
    pub fn metrics(&self) -> Vec<MetricFamily> {
        self.0.registry.gather()
    }
}

impl Default for CallLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for CallLayer {
    type Service = CallService<S>;

    fn layer(&self, inner: S) -> CallService<S> {
        CallService {
            inner,
            methods: Arc::clone(&self.0),
        }
    }
}

/// The service that the layer makes.
#[derive(Clone)]
pub struct CallService<S> {
    inner: S,
    methods: Arc<Methods>,
}

impl<S, I, O> Service<Request<I>> for CallService<S>
where
    S: Service<Request<I>, Response = Response<O>>,
    S::Future: Send + 'static,
{
    type Response = Response<CallBody<O>>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<I>) -> Self::Future {
        let call = Call::start(&self.methods, request.uri().path(), request.headers());
        let info = Arc::clone(&call.info);
        let answer = self.inner.call(request);
        Box::pin(CURRENT.scope(info, async move {
            let mut response = answer.await?;
            let request_id = call.info.request_id.clone();
            response.headers_mut().insert(REQUEST_ID, request_id);
            let call = match Ending::of(response.headers()) {
                Some(ending) => {
                    call.end(ending);
                    None
                }
                None => Some(call),
            };
            Ok(response.map(|inner| CallBody { inner, call }))
        }))
    }
}

/// A call under way; it was cancelled if it is dropped before its end.
struct Call {
    methods: Arc<Methods>,
    method: usize,
    info: Arc<CallInfo>,
    trace_id: TraceId,
    started: Instant,
    ended: bool,
}

impl Call {
    fn start(methods: &Arc<Methods>, path: &str, headers: &HeaderMap) -> Self {
        let method = methods.find(path);
        methods.get(method).started.inc();
        Self {
            methods: Arc::clone(methods),
            method,
            info: Arc::new(CallInfo {
                request_id: request_id_of(headers),
                key: OnceLock::new(),
            }),
            trace_id: TraceId::of(headers),
            started: Instant::now(),
            ended: false,
        }
    }

    fn end(mut self, ending: Ending) {
        self.count(ending);
    }

    fn count(&mut self, ending: Ending) {
        self.ended = true;
        let seconds = self.started.elapsed().as_secs_f64();
        let method = self.methods.get(self.method);
        method.handled(ending).inc();
        method.seconds.observe(seconds);
        self.log(method, ending, seconds);
    }

    /// A mistake of the client's is none of the service's.
    fn log(&self, method: &Method, ending: Ending, seconds: f64) {
        macro_rules! line {
            ($level:ident) => {
                tracing::event!(
                    target: "calls",
                    tracing::Level::$level,
                    method = method.path,
                    code = ending.name(),
                    seconds,
                    request_id = self.info.request_id(),
                    key = self.info.key(),
                    trace_id = self.trace_id.as_str(),
                )
            };
        }
        match ending.concern() {
            Concern::Client => line!(INFO),
            Concern::Operator => line!(WARN),
            Concern::Developer => line!(ERROR),
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.ended {
            self.count(Ending::GONE);
        }
    }
}

pin_project! {
    /// A reply's body, which knows when the call ends.
    pub struct CallBody<B> {
        #[pin]
        inner: B,
        call: Option<Call>,
    }
}

impl<B: Body> Body for CallBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let Some(call) = this.call else {
            return this.inner.poll_frame(cx);
        };
        let info = Arc::clone(&call.info);
        let polled = CURRENT.sync_scope(info, || this.inner.poll_frame(cx));
        let ending = match &polled {
            Poll::Ready(Some(Ok(frame))) => frame.trailers_ref().and_then(Ending::of),
            Poll::Ready(Some(Err(_)) | None) => Some(Ending::UNSAID),
            Poll::Pending => None,
        };
        if let Some(ending) = ending
            && let Some(call) = this.call.take()
        {
            call.end(ending);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The caller's id where it can stand in a log line, else a new one.
fn request_id_of(headers: &HeaderMap) -> HeaderValue {
    let given = headers.get(REQUEST_ID).filter(|id| {
        let id = id.as_bytes();
        (1..=REQUEST_ID_MAX).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
    });
    given.cloned().unwrap_or_else(new_request_id)
}

/// 64 random bits as hex digits.
fn new_request_id() -> HeaderValue {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut digits = [0; 16];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(fastrand::u64(..).to_be_bytes()) {
        pair[0] = HEX[usize::from(byte >> 4)];
        pair[1] = HEX[usize::from(byte & 0xf)];
    }
    HeaderValue::from_bytes(&digits).expect("hex digits are visible ASCII")
}

/// The trace that a call belongs to, as 32 hex digits.
struct TraceId(Option<[u8; 32]>);

impl TraceId {
    /// As W3C's `traceparent` has it: version, trace, span and flags, with hyphens between.
    fn of(headers: &HeaderMap) -> Self {
        let id = headers
            .get(TRACE_PARENT)
            .and_then(|parent| parent.as_bytes().get(3..35)?.try_into().ok());
        Self(id.filter(is_trace_id))
    }

    fn as_str(&self) -> &str {
        let digits = self.0.as_ref().map_or(&[][..], |digits| digits);
        std::str::from_utf8(digits).unwrap_or_default()
    }
}

fn is_trace_id(id: &[u8; 32]) -> bool {
    id.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) && id.iter().any(|digit| *digit != b'0')
}
