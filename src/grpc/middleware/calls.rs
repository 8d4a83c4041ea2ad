//! Every call, once: counted and logged when it ends, under an id that the caller gets back.
//!
//! A stream ends with its trailers, or when its reader goes away. The id and what else belongs to a
//! call are at hand in [`current`] wherever its code runs. Content, meta and secrets are never logged.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use prometheus::proto::MetricFamily;
use tower::{Layer, Service};
use tracing::{Instrument as _, Span, field};

use super::methods::{Method, Methods};
use super::request_id;
use crate::grpc::call_info::{CURRENT, CallInfo};
use crate::grpc::status::{Ending, Severity};
use crate::telemetry;

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
        let span = call.span.clone();
        // What the layers below do at once is of this call, as what they do later.
        let answer = CURRENT.sync_scope(Arc::clone(&info), || span.in_scope(|| self.inner.call(request)));
        let answered = async move {
            let mut response = answer.await?;
            let request_id = call.info.request_id.clone();
            response.headers_mut().insert(request_id::REQUEST_ID, request_id);
            let call = match Ending::of(response.headers()) {
                Some(ending) => {
                    call.end(ending);
                    None
                }
                None => Some(call),
            };
            Ok(response.map(|inner| CallBody { inner, call }))
        };
        Box::pin(CURRENT.scope(info, answered.instrument(span)))
    }
}

/// A call under way; it was cancelled if it is dropped before its end.
struct Call {
    methods: Arc<Methods>,
    method: usize,
    info: Arc<CallInfo>,
    span: Span,
    trace_id: Option<String>,
    started: Instant,
    ended: bool,
}

impl Call {
    fn start(methods: &Arc<Methods>, path: &str, headers: &HeaderMap) -> Self {
        let index = methods.find(path);
        let method = methods.get(index);
        method.started.inc();
        let info = CallInfo {
            request_id: request_id::request_id(headers),
            key: OnceLock::new(),
        };
        let span = span_of(method, &info, headers);
        Self {
            methods: Arc::clone(methods),
            method: index,
            trace_id: telemetry::trace_id(&span).or_else(|| request_id::trace_id(headers)),
            info: Arc::new(info),
            span,
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
        self.span.record("rpc.response.status_code", ending.name());
        if ending.concern() != Severity::Client {
            self.span.record("otel.status_code", "ERROR");
        }
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
                    key = self.info.key_name(),
                    trace_id = self.trace_id.as_deref().unwrap_or_default(),
                )
            };
        }
        match ending.concern() {
            Severity::Client => line!(INFO),
            Severity::Operator => line!(WARN),
            Severity::Developer => line!(ERROR),
        }
    }
}

/// Goes on with the caller's trace; ends when the call and all that is done for it have.
fn span_of(method: &Method, info: &CallInfo, headers: &HeaderMap) -> Span {
    let span = tracing::debug_span!(
        target: "spans",
        "call",
        otel.name = method.path.trim_start_matches('/'),
        otel.kind = "server",
        otel.status_code = field::Empty,
        rpc.system.name = "grpc",
        rpc.method = method.path.trim_start_matches('/'),
        rpc.response.status_code = field::Empty,
        request_id = info.request_id(),
    );
    telemetry::continue_from(&span, headers);
    span
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
        let poll = || call.span.in_scope(|| this.inner.poll_frame(cx));
        let polled = CURRENT.sync_scope(info, poll);
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
