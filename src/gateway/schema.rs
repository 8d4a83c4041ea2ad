//! The methods and messages of the server, by their descriptors.

use std::collections::HashMap;
use std::sync::LazyLock;

use prost::Message as _;
use prost_reflect::prost_types::method_options::IdempotencyLevel;
use prost_reflect::prost_types::{FileDescriptorSet, MethodOptions};
use prost_reflect::{DescriptorPool, MessageDescriptor, MethodDescriptor, ServiceDescriptor};

use crate::grpc::pb;

/// A method of the server.
pub(super) struct Method {
    pub(super) request: MessageDescriptor,
    pub(super) reply: MessageDescriptor,
    pub(super) streaming: Streaming,
    /// Whether the method only reads.
    pub(super) is_read: bool,
}

/// The streams of a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Streaming {
    None,
    /// The server sends a stream of replies.
    Server,
    /// The client sends a stream of requests.
    Client,
}

/// The file of tonic-types with the details of errors. Its other file is in the server's own descriptors already.
const ERROR_DETAILS: &str = "error_details.proto";

/// The descriptors of all services and of the details of errors.
static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    // Contains the types that Protobuf itself defines.
    let mut pool = DescriptorPool::global();
    for bytes in [
        pb::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ] {
        pool.decode_file_descriptor_set(bytes)
            .expect("the proto compiler wrote the descriptor set");
    }
    let types = FileDescriptorSet::decode(tonic_types::pb::FILE_DESCRIPTOR_SET)
        .expect("the proto compiler wrote the descriptor set");
    let details = types.file.into_iter().filter(|file| file.name() == ERROR_DETAILS);
    pool.add_file_descriptor_protos(details)
        .expect("the file imports only what Protobuf defines");
    pool
});

static METHODS: LazyLock<HashMap<String, Method>> = LazyLock::new(|| {
    let services: Vec<_> = POOL.services().collect();
    let methods = services.iter().flat_map(ServiceDescriptor::methods);
    methods
        .map(|method| {
            let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
            (path, Method::new(&method))
        })
        .collect()
});

impl Method {
    fn new(method: &MethodDescriptor) -> Self {
        let proto = method.method_descriptor_proto();
        let level = proto.options.as_ref().map(MethodOptions::idempotency_level);
        Self {
            request: method.input(),
            reply: method.output(),
            streaming: match (method.is_client_streaming(), method.is_server_streaming()) {
                (false, false) => Streaming::None,
                (false, true) => Streaming::Server,
                (true, _) => Streaming::Client,
            },
            is_read: level == Some(IdempotencyLevel::NoSideEffects),
        }
    }
}

/// Returns the method with this path.
pub(super) fn method(path: &str) -> Option<&'static Method> {
    METHODS.get(path)
}

/// Returns all methods and their paths.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn methods() -> impl Iterator<Item = (&'static str, &'static Method)> {
    METHODS.iter().map(|(path, method)| (path.as_str(), method))
}

/// Returns the message type with this full name.
pub(super) fn message(full_name: &str) -> Option<MessageDescriptor> {
    POOL.get_message_by_name(full_name)
}
