//! Tests of the traces exported by OTLP: the span of a call, with child spans down to its statements.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use elephantasm_events::grpc::pb::{
    CountEventsRequest, CreateEventRequest, GetEventRequest, ListEventsRequest, StreamSessionEventsRequest,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::net::TcpListener;
use tonic::metadata::MetadataValue;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, ServerTlsConfig};
use tonic::{Request, Response, Status};

use crate::certificates::Authority;
use crate::harness::{Server, TestDir, event, eventually, finish};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// An OTLP collector that stores the requests it receives.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Starts a collector in plain text; returns it with its URL.
    async fn start() -> (Self, String) {
        let (collector, addr) = Self::serve(tonic::transport::Server::builder()).await;
        (collector, format!("http://{addr}"))
    }

    /// Starts a collector with TLS that requires client certificates of the authority.
    async fn start_secured(authority: &Authority) -> (Self, String) {
        let pair = authority.issue();
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(pair.cert, pair.key))
            .client_ca_root(Certificate::from_pem(authority.pem()));
        let server = tonic::transport::Server::builder().tls_config(tls).unwrap();
        let (collector, addr) = Self::serve(server).await;
        (collector, format!("https://{addr}"))
    }

    async fn serve(mut server: tonic::transport::Server) -> (Self, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let collector = Self::default();
        let server = server.add_service(TraceServiceServer::new(collector.clone()));
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        (collector, addr)
    }

    fn spans(&self) -> Vec<Span> {
        let requests = self.0.lock().unwrap().clone();
        let resources = requests.into_iter().flat_map(|request| request.resource_spans);
        let scopes = resources.flat_map(|resource| resource.scope_spans);
        scopes.flat_map(|scope| scope.spans).collect()
    }

    /// Waits for the span of a call in the trace [`TRACE`]; returns it and the trace's other spans.
    async fn spans_of_call(&self, method: &str) -> (Span, Vec<Span>) {
        let name = format!("elephantasm.events.v1.EventService/{method}");
        eventually("the call's span is exported", async || {
            let trace_spans = self
                .spans()
                .into_iter()
                .filter(|span| hex(&span.trace_id) == TRACE);
            let (mut calls, others): (Vec<Span>, Vec<Span>) = trace_spans.partition(|span| span.name == name);
            Some((calls.pop()?, others))
        })
        .await
    }
}

fn hex(bytes: &[u8]) -> String {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.concat()
}

fn attribute(span: &Span, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.clone()?.value? {
        Value::StringValue(text) => Some(text),
        other => panic!("{key} is {other:?}"),
    }
}

/// The child span of `parent` with this name.
#[track_caller]
fn child<'s>(spans: &'s [Span], parent: &Span, name: &str) -> &'s Span {
    let matches = |span: &&Span| span.name == name && span.parent_span_id == parent.span_id;
    let found = spans.iter().find(matches);
    found.unwrap_or_else(|| panic!("no {name} below {} among {spans:#?}", parent.name))
}

fn traced<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let parent = MetadataValue::try_from(format!("00-{TRACE}-{PARENT}-01")).unwrap();
    request.metadata_mut().insert("traceparent", parent);
    request
}

async fn tracing_server(test_dir: &TestDir, endpoint: &str) -> Server {
    let mut command = test_dir.command(&["serve", "--log-format", "json"]);
    command
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        .env("OTEL_BSP_SCHEDULE_DELAY", "50");
    Server::run(test_dir, &mut command).await
}

#[tokio::test]
async fn a_create_is_traced_from_the_callers_span_down_to_its_statement() {
    let test_dir = TestDir::new();
    let (collector, endpoint) = Collector::start().await;
    let server = tracing_server(&test_dir, &endpoint).await;
    let request = CreateEventRequest {
        content: Some("a word in confidence".to_owned()),
        ..event(&server.spirit("Ada").await)
    };
    server.events().await.create_event(traced(request)).await.unwrap();

    let (call, others) = collector.spans_of_call("CreateEvent").await;
    assert_eq!(hex(&call.parent_span_id), PARENT);
    assert_eq!(attribute(&call, "rpc.response.status_code").unwrap(), "OK");
    assert_eq!(attribute(&call, "request_id").unwrap().len(), 16);
    let flush = child(&others, &call, "flush");
    let statement = child(&others, flush, "statement");
    assert!(
        attribute(statement, "db.query.text")
            .unwrap()
            .contains("insert into events")
    );
    let all = format!("{:?}", collector.0.lock().unwrap());
    assert!(all.contains("elephantasm-events"), "the service's name: {all}");
    assert!(!all.contains("confidence"), "{all}");
    server.stop().await;
}

#[tokio::test]
async fn reads_and_streams_are_traced_down_to_their_statements() {
    let test_dir = TestDir::new();
    let (collector, endpoint) = Collector::start().await;
    let server = tracing_server(&test_dir, &endpoint).await;
    let spirit_id = server.spirit("Ada").await;
    let mut events = server.events().await;
    let created = events.create_event(event(&spirit_id)).await.unwrap().into_inner();
    let get = GetEventRequest {
        event_id: created.event.unwrap().id,
        ..GetEventRequest::default()
    };
    events.get_event(traced(get)).await.unwrap();
    let list = ListEventsRequest {
        spirit_id: spirit_id.clone(),
        ..ListEventsRequest::default()
    };
    events.list_events(traced(list)).await.unwrap();
    let replay = StreamSessionEventsRequest {
        spirit_id,
        session_id: "s".to_owned(),
        ..StreamSessionEventsRequest::default()
    };
    let mut replay = events
        .stream_session_events(traced(replay))
        .await
        .unwrap()
        .into_inner();
    while replay.message().await.unwrap().is_some() {}

    let (list, others) = collector.spans_of_call("ListEvents").await;
    let statement = child(&others, &list, "statement");
    assert!(
        attribute(statement, "db.query.text")
            .unwrap()
            .contains("from events")
    );
    let (get, others) = collector.spans_of_call("GetEvent").await;
    child(&others, child(&others, &get, "get_events"), "statement");
    let (replay, others) = collector.spans_of_call("StreamSessionEvents").await;
    child(&others, &replay, "statement");
    server.stop().await;
}

#[tokio::test]
async fn a_new_trace_id_is_logged_and_shutdown_exports_the_last_spans() {
    let test_dir = TestDir::new();
    let (collector, endpoint) = Collector::start().await;
    let mut command = test_dir.command(&["serve", "--log-format", "json"]);
    command
        .env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", endpoint)
        .env("OTEL_BSP_SCHEDULE_DELAY", "3600000");
    let mut server = Server::run(&test_dir, &mut command).await;
    let bad = server
        .events()
        .await
        .count_events(CountEventsRequest::default())
        .await;
    bad.unwrap_err();
    server.signal("TERM").await;
    assert_eq!(server.wait_for_exit().await.0, Some(0));

    let spans = collector.spans();
    let call = spans
        .iter()
        .find(|span| span.name.ends_with("/CountEvents"))
        .unwrap();
    assert!(call.parent_span_id.is_empty(), "{call:?}");
    assert_eq!(
        attribute(call, "rpc.response.status_code").unwrap(),
        "INVALID_ARGUMENT"
    );
    let log = server.log();
    let line = log.lines().find(|line| line.contains("/CountEvents")).unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(line["fields"]["trace_id"], hex(&call.trace_id));
}

#[tokio::test]
async fn an_unreachable_trace_collector_does_not_affect_calls() {
    let test_dir = TestDir::new();
    let unused_addr = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let server = tracing_server(&test_dir, &format!("http://{unused_addr}")).await;
    for _ in 0..10 {
        server.spirit("Ada").await;
    }
    server.stop().await;
}

/// The certificate file does not exist, which does not matter in plain text.
#[tokio::test]
async fn traces_are_exported_in_plain_text_to_http_and_to_insecure_endpoints() {
    let test_dir = TestDir::new();
    let (collector, endpoint) = Collector::start().await;
    let (_, addr) = endpoint.split_once("://").unwrap();
    let endpoints = [
        (format!("HTTP://{addr}"), "false"),
        (addr.to_owned(), "true"),
        (addr.to_owned(), "TRUE"),
    ];
    for (endpoint, insecure) in endpoints {
        let mut command = test_dir.command(&["serve"]);
        command
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)
            .env("OTEL_EXPORTER_OTLP_INSECURE", insecure)
            .env("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere");
        let server = Server::run(&test_dir, &mut command).await;
        server.spirit("Ada").await;
        server.stop().await;
        let spans = std::mem::take(&mut *collector.0.lock().unwrap());
        assert!(!spans.is_empty(), "{endpoint} {insecure}");
    }
}

#[tokio::test]
async fn a_tls_collector_receives_spans_only_if_both_sides_trust_each_other() {
    let test_dir = TestDir::new();
    let (trusted, foreign) = (Authority::new("ours"), Authority::new("foreign"));
    let pair = trusted.issue();
    let ca = test_dir.file("ca", trusted.pem());
    let (cert, key) = (test_dir.file("cert", pair.cert), test_dir.file("key", pair.key));
    let (collector, endpoint) = Collector::start_secured(&trusted).await;
    let server = |ca: &str| {
        let mut command = test_dir.command(&["serve"]);
        command
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)
            .env("OTEL_EXPORTER_OTLP_CERTIFICATE", ca)
            .env("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &cert)
            .env("OTEL_EXPORTER_OTLP_CLIENT_KEY", &key);
        command
    };

    let mut distrusting = server(&test_dir.file("foreign", foreign.pem()));
    let mut distrusting = Server::run(&test_dir, &mut distrusting).await;
    distrusting.spirit("Ada").await;
    // The shutdown exports the last spans.
    distrusting.signal("TERM").await;
    assert_eq!(distrusting.wait_for_exit().await.0, Some(0));
    assert!(
        distrusting.log().contains("UnknownIssuer"),
        "{}",
        distrusting.log()
    );
    assert!(
        collector.spans().is_empty(),
        "spans reached an untrusted collector"
    );

    let trusting = Server::run(&test_dir, &mut server(&ca)).await;
    trusting.spirit("Ada").await;
    trusting.stop().await;
    let spans = collector.spans();
    assert!(
        spans.iter().any(|span| span.name.ends_with("/CreateSpirit")),
        "{spans:?}"
    );
}

#[tokio::test]
async fn serve_rejects_unusable_otlp_settings_with_code_2() {
    let test_dir = TestDir::new();
    let empty = test_dir.file("empty", "");
    for (variable, value, expected) in [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf", "grpc"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere", "/nowhere"),
        ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", &empty, "certificate"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", &empty, "go together"),
    ] {
        let mut command = test_dir.command(&["serve"]);
        command
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", "https://127.0.0.1:4317")
            .env(variable, value);
        // An explicit authority, because the system may have none.
        if !variable.ends_with("_CERTIFICATE") {
            let ca = test_dir.file("ca", Authority::new("ours").pem());
            command.env("OTEL_EXPORTER_OTLP_CERTIFICATE", ca);
        }
        finish(&mut command)
            .await
            .exits_with(2)
            .reports(&[variable, expected]);
    }
}
