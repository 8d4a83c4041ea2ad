//! `grpc.health.v1.Health`, which follows the database, and server reflection, as command-line clients use
//! it.

use elephantasm_events::embedded_postgres::{EmbeddedPostgres, Options};
use elephantasm_events::grpc::pb::ListSpiritsRequest;
use elephantasm_events::grpc::pb::spirit_service_client::SpiritServiceClient;
use elephantasm_events::server::{self, Listeners};
use elephantasm_events::store::Store;
use prost::Message as _;
use prost_types::{FileDescriptorProto, field_descriptor_proto::Type};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Streaming};
use tonic_health::pb::health_check_response::ServingStatus::{self, NotServing, Serving};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::support::builders::refused;
use crate::support::harness::{PATIENCE, Settings, TestServer, connect, reachable_dir};
use crate::support::scrape::get;

const EVENT_SERVICE: &str = "elephantasm.events.v1.EventService";
const SPIRIT_SERVICE: &str = "elephantasm.events.v1.SpiritService";
const ACCESS_SERVICE: &str = "elephantasm.events.v1.AccessService";
const SESSION_SERVICE: &str = "elephantasm.events.v1.SessionService";
const SERVICES: [&str; 5] = ["", EVENT_SERVICE, SESSION_SERVICE, SPIRIT_SERVICE, ACCESS_SERVICE];

fn request_of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.to_owned(),
    }
}

/// Waits for the next report of a watch.
async fn next_status(watch: &mut Streaming<HealthCheckResponse>) -> ServingStatus {
    let change = timeout(PATIENCE, watch.message()).await;
    change
        .expect("a report within the time limit")
        .unwrap()
        .unwrap()
        .status()
}

#[tokio::test]
async fn health_reports_serving_for_the_server_and_each_service() {
    let server = TestServer::start().await;
    let mut health = HealthClient::new(server.channel());
    for service in SERVICES {
        let reply = health.check(request_of(service)).await.unwrap().into_inner();
        assert_eq!(reply.status(), Serving, "{service}");
        let mut watch = health.watch(request_of(service)).await.unwrap().into_inner();
        assert_eq!(next_status(&mut watch).await, Serving, "{service}");
    }
    let unknown = health.check(request_of("elephantasm.events.v1.Nothing")).await;
    assert_eq!(unknown.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn shutdown_reports_not_serving_and_does_not_wait_for_health_watches() {
    let server = TestServer::start_with(|settings| settings.server.drain_limit = 10 * PATIENCE).await;
    let mut health = HealthClient::new(server.channel());
    let mut watch = health.watch(request_of("")).await.unwrap().into_inner();
    assert_eq!(next_status(&mut watch).await, Serving);
    server.shut_down();
    assert_eq!(next_status(&mut watch).await, NotServing);
    assert!(
        watch.message().await.unwrap().is_none(),
        "the stream ends in order"
    );
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn health_follows_the_availability_of_the_database() {
    let dir = reachable_dir();
    let options = Options {
        data_dir: dir.path().join("data"),
        bin_dir: std::env::var_os("PG_BIN_DIR").map(Into::into),
        settings: vec![("fsync".to_owned(), "off".to_owned())],
    };
    let postgres = EmbeddedPostgres::start(options.clone()).await.unwrap();
    let database = postgres.connect_options("postgres");
    postgres.stop().await.unwrap();

    let settings = Settings::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let admin_listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let admin = admin_listener.local_addr().unwrap();
    let listeners = Listeners {
        calls: listener,
        admin: Some(admin_listener),
    };
    let store = Store::open(database, settings.store);
    let shutdown = CancellationToken::new();
    let (ready, _is_ready) = oneshot::channel();
    let served = tokio::spawn(server::run(
        listeners,
        store,
        settings.server,
        shutdown.clone(),
        ready,
    ));
    let channel = connect(addr).await;
    let mut health = HealthClient::new(channel.clone());
    let mut spirits = SpiritServiceClient::new(channel);
    let mut watches = Vec::new();
    for service in SERVICES {
        watches.push(health.watch(request_of(service)).await.unwrap().into_inner());
    }

    // NOT_SERVING before the database starts and after each stop; SERVING while it runs.
    for _ in 0..2 {
        for watch in &mut watches {
            assert_eq!(next_status(watch).await, NotServing);
        }
        let unavailable = spirits.list_spirits(ListSpiritsRequest::default()).await;
        let status = refused(unavailable, Code::Unavailable, "DATABASE_UNAVAILABLE");
        let details = tonic_types::StatusExt::get_error_details(&status);
        assert!(details.retry_info().is_some(), "the error has RetryInfo");
        assert_eq!(get(admin, "/readyz").await.0, 503);
        assert_eq!(get(admin, "/healthz").await.0, 200, "the server needs no restart");
        assert!(
            get(admin, "/metrics")
                .await
                .1
                .contains("\nevents_database_up 0\n")
        );
        let postgres = EmbeddedPostgres::start(options.clone()).await.unwrap();
        for watch in &mut watches {
            assert_eq!(next_status(watch).await, Serving);
        }
        spirits.list_spirits(ListSpiritsRequest::default()).await.unwrap();
        assert_eq!(get(admin, "/readyz").await.0, 200);
        postgres.stop().await.unwrap();
    }
    shutdown.cancel();
    timeout(PATIENCE, served)
        .await
        .expect("the server shuts down within the time limit")
        .unwrap()
        .unwrap();
}

/// Makes a reflection request in one version, whose messages are separate types.
macro_rules! reflect {
    ($version:ident, $server:expr, $request:ident($text:expr)) => {{
        use pb::server_reflection_request::MessageRequest;
        use tonic_reflection::pb::$version as pb;
        let request = pb::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::$request($text.to_owned())),
        };
        let channel = $server.channel();
        let mut client = pb::server_reflection_client::ServerReflectionClient::new(channel);
        let replies = client.server_reflection_info(tokio_stream::once(request)).await;
        let reply = replies.unwrap().into_inner().message().await.unwrap().unwrap();
        reply.message_response.unwrap()
    }};
}

/// Defines functions that read the service names, and the files that declare a symbol, in one version.
macro_rules! version {
    ($version:ident) => {
        mod $version {
            use super::*;
            use tonic_reflection::pb::$version::server_reflection_response::MessageResponse;

            pub async fn services(server: &TestServer) -> Vec<String> {
                match reflect!($version, server, ListServices("")) {
                    MessageResponse::ListServicesResponse(list) => list
                        .service
                        .into_iter()
                        .map(|service| service.name)
                        .collect(),
                    other => panic!("no list of services: {other:?}"),
                }
            }

            pub async fn files(server: &TestServer, symbol: &str) -> Vec<FileDescriptorProto> {
                match reflect!($version, server, FileContainingSymbol(symbol)) {
                    MessageResponse::FileDescriptorResponse(files) => files
                        .file_descriptor_proto
                        .iter()
                        .map(|file| FileDescriptorProto::decode(file.as_slice()).unwrap())
                        .collect(),
                    other => panic!("no files for {symbol}: {other:?}"),
                }
            }
        }
    };
}

version!(v1);
version!(v1alpha);

#[tokio::test]
async fn reflection_lists_every_service_in_both_versions() {
    let server = TestServer::start().await;
    for services in [v1::services(&server).await, v1alpha::services(&server).await] {
        for service in [
            EVENT_SERVICE,
            SESSION_SERVICE,
            SPIRIT_SERVICE,
            ACCESS_SERVICE,
            "grpc.health.v1.Health",
        ] {
            assert!(
                services.iter().any(|name| name == service),
                "{service}: {services:?}"
            );
        }
    }
}

#[tokio::test]
async fn reflection_serves_every_method_with_its_comment() {
    let server = TestServer::start().await;
    for (service, method) in [
        (EVENT_SERVICE, "CreateEvent"),
        (SPIRIT_SERVICE, "CreateSpirit"),
        (ACCESS_SERVICE, "GetAccess"),
    ] {
        for files in [
            v1::files(&server, service).await,
            v1alpha::files(&server, service).await,
        ] {
            let name = service.rsplit('.').next().unwrap();
            let file = files
                .iter()
                .find(|file| file.service.iter().any(|s| s.name() == name));
            let file = file.expect("the file that declares the service");
            let methods = &file.service[0].method;
            assert!(
                methods.iter().any(|declared| declared.name() == method),
                "{service}"
            );
            let info = file.source_code_info.as_ref().expect("source info");
            for method in 0..i32::try_from(methods.len()).unwrap() {
                let path = [6, 0, 2, method]; // field 6 `service`, first service, field 2 `method`
                let comment = info.location.iter().find(|location| location.path == path);
                let comment = comment.map_or("", |location| location.leading_comments());
                assert!(!comment.is_empty(), "method {method} of {service}");
            }
        }
    }
}

#[tokio::test]
async fn reflection_serves_the_message_types_of_errors() {
    let server = TestServer::start().await;
    for name in [
        "ErrorInfo",
        "BadRequest",
        "ResourceInfo",
        "RetryInfo",
        "RequestInfo",
        "Status",
    ] {
        let symbol = format!("google.rpc.{name}");
        for files in [
            v1::files(&server, &symbol).await,
            v1alpha::files(&server, &symbol).await,
        ] {
            let messages = files.iter().flat_map(|file| &file.message_type);
            let message = messages.into_iter().find(|message| message.name() == name);
            let fields = &message.expect("a file that declares the message").field;
            assert!(
                fields
                    .iter()
                    .any(|field| matches!(field.r#type(), Type::String | Type::Message))
            );
        }
    }
}
