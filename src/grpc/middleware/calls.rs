//! Counts every call at its start and its end, logs it at its end, and returns its request id to the caller.
//!
//! A stream ends with its trailers, or when the client disconnects. Code that runs for a call gets its request id
//! and key from [`call_info::current`](crate::grpc::call_info::current). Content, meta and secrets are never
//! logged.

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
use crate::grpc::status::{Severity, StatusCode};
use crate::telemetry;

/// Counts and logs calls. Has to be the outermost layer, so that no call is missed. Cheap to clone.
#[derive(Clone)]
pub struct CallLayer(Arc<Methods>);

impl CallLayer {
    /// Creates a layer with all counters at zero.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Methods::new()))
    }

    /// Returns the metrics of all calls so far.
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

/// The service of a [`CallLayer`].
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
        // Inner layers do a part of their work in `call` itself, before their future is polled.
        let reply = CURRENT.sync_scope(Arc::clone(&info), || span.in_scope(|| self.inner.call(request)));
        let tracked = async move {
            let mut response = reply.await?;
            let request_id = call.info.request_id.clone();
            response.headers_mut().insert(request_id::REQUEST_ID, request_id);
            let call = match StatusCode::of(response.headers()) {
                Some(code) => {
                    call.end(code);
                    None
                }
                None => Some(call),
            };
            Ok(response.map(|inner| CallBody { inner, call }))
        };
        Box::pin(CURRENT.scope(info, tracked.instrument(span)))
    }
}

/// A call in progress. If it is dropped before it has ended, it counts as cancelled.
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
        let index = methods.index_of(path);
        let method = methods.get(index);
        method.started.inc();
        let info = CallInfo {
            request_id: request_id::request_id(headers),
            key: OnceLock::new(),
            key_end: OnceLock::new(),
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

    /// Ends the call with this code.
    fn end(mut self, code: StatusCode) {
        self.record(code);
    }

    fn record(&mut self, code: StatusCode) {
        self.ended = true;
        let seconds = self.started.elapsed().as_secs_f64();
        let method = self.methods.get(self.method);
        method.handled(code).inc();
        method.seconds.observe(seconds);
        self.span.record("rpc.response.status_code", code.name());
        if code.severity() != Severity::Client {
            self.span.record("otel.status_code", "ERROR");
        }
        self.log(method, code, seconds);
    }

    /// Logs the call. Client errors are logged at INFO, as successful calls are.
    fn log(&self, method: &Method, code: StatusCode, seconds: f64) {
        macro_rules! line {
            ($level:ident) => {
                tracing::event!(
                    target: "calls",
                    tracing::Level::$level,
                    method = method.path,
                    code = code.name(),
                    seconds,
                    request_id = self.info.request_id(),
                    key = self.info.key_name(),
                    trace_id = self.trace_id.as_deref().unwrap_or_default(),
                )
            };
        }
        match code.severity() {
            Severity::Client => line!(INFO),
            Severity::Operator => line!(WARN),
            Severity::Developer => line!(ERROR),
        }
    }
}

/// Creates the span of a call. It continues the caller's trace and ends when all work for the call has ended.
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
            self.record(StatusCode::CANCELLED);
        }
    }
}

pin_project! {
    /// A reply body that records the end of its call at the last frame.
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
        let code = match &polled {
            Poll::Ready(Some(Ok(frame))) => frame.trailers_ref().and_then(StatusCode::of),
            Poll::Ready(Some(Err(_)) | None) => Some(StatusCode::UNKNOWN),
            Poll::Pending => None,
        };
        if let Some(code) = code
            && let Some(call) = this.call.take()
        {
            call.end(code);
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
