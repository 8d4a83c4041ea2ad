//! Assembles the gRPC services and the middleware around them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tonic::service::Routes;
use tower::layer::util::Identity;
use tower::util::{Either, option_layer};
use tower_http::cors::CorsLayer;

use super::ServerSettings;
use crate::config::Reflection;
use crate::console::ConsoleLayer;
use crate::gateway::{CorsOrigins, GatewayLayer, MessageLayer, cors_layer};
use crate::grpc::pb::access_service_server::AccessServiceServer;
use crate::grpc::pb::event_service_server::EventServiceServer;
use crate::grpc::pb::purge_service_server::PurgeServiceServer;
use crate::grpc::pb::session_service_server::SessionServiceServer;
use crate::grpc::pb::spirit_service_server::SpiritServiceServer;
use crate::grpc::{
    AccessApi, AuthLayer, CallLayer, Context, DeadlineLayer, ErrorLayer, EventApi, KeylessStreamLayer,
};
use crate::grpc::{
    Keyring, OriginRules, PanicLayer, ProtocolLayer, PurgeApi, ReadyLayer, ReplyLayer, SessionApi, SpiritApi,
    pb,
};

/// Adds this server's services to the health service, and reflection unless it is off.
pub(super) fn routes(health: Routes, context: Context, reflection: Reflection) -> anyhow::Result<Routes> {
    let max = context.message_bytes_max;
    let routes = health
        .add_service(EventServiceServer::new(EventApi(context.clone())).max_decoding_message_size(max))
        .add_service(SessionServiceServer::new(SessionApi(context.clone())).max_decoding_message_size(max))
        .add_service(PurgeServiceServer::new(PurgeApi(context.clone())).max_decoding_message_size(max))
        .add_service(SpiritServiceServer::new(SpiritApi(context)).max_decoding_message_size(max))
        .add_service(AccessServiceServer::new(AccessApi).max_decoding_message_size(max));
    if reflection == Reflection::Off {
        return Ok(routes);
    }
    Ok(routes
        .add_service(reflection_builder().build_v1()?)
        .add_service(reflection_builder().build_v1alpha()?))
}

fn reflection_builder() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

/// The middleware of every call, outermost first.
pub(super) type Layers = (
    Either<CorsLayer, Identity>,
    ConsoleLayer,
    GatewayLayer,
    CallLayer,
    ProtocolLayer,
    KeylessStreamLayer,
    PanicLayer,
    DeadlineLayer,
    ErrorLayer,
    ReadyLayer,
    AuthLayer,
    ReplyLayer,
    MessageLayer,
);

pub(super) fn layers(
    calls: CallLayer,
    settings: &ServerSettings,
    context: &Context,
    migrated: &Arc<AtomicBool>,
    keyring: &Keyring,
    addr: SocketAddr,
) -> Layers {
    let origins = OriginRules {
        is_loopback: addr.ip().to_canonical().is_loopback(),
        ..settings.origins.clone()
    };
    let cors = CorsOrigins {
        origins: settings.origins.cors_origins.clone(),
        keyring: keyring.clone(),
    };
    let message_bytes_max = settings.message_bytes_max;
    (
        option_layer(cors_layer(cors)),
        ConsoleLayer {
            console: settings.console,
            keyring: keyring.clone(),
            origins: origins.clone(),
        },
        GatewayLayer { message_bytes_max },
        calls,
        ProtocolLayer {
            keyring: keyring.clone(),
            origins,
        },
        KeylessStreamLayer::default(),
        PanicLayer,
        DeadlineLayer {
            answer_within: settings.call_limit,
        },
        ErrorLayer { message_bytes_max },
        ReadyLayer {
            ready: Arc::clone(migrated),
            shutdown: context.shutdown.clone(),
        },
        AuthLayer {
            keyring: keyring.clone(),
            reflection: settings.auth.reflection,
        },
        ReplyLayer,
        MessageLayer { message_bytes_max },
    )
}
