//! The methods that the server has: their kinds and their metrics. Metrics are created once for each method,
//! so that counting a call allocates no labels.

use std::collections::HashMap;
use std::sync::LazyLock;

use prometheus::{Histogram, IntCounter};
use prost::Message as _;
use prost_types::method_options::IdempotencyLevel;
use prost_types::{FileDescriptorSet, MethodDescriptorProto, MethodOptions};

use crate::grpc::pb;
use crate::grpc::status::StatusCode;
use crate::metrics::Registry;

const SECONDS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// Label of all methods that the server does not have, because a caller can send any name.
const UNKNOWN: &str = "unknown";
/// Package of this server's own services.
const PACKAGE: &str = "elephantasm.events.v1";

/// A method's path and metrics.
pub(super) struct Method {
    pub(super) path: &'static str,
    pub(super) started: IntCounter,
    pub(super) seconds: Histogram,
    handled: [IntCounter; StatusCode::COUNT],
}

impl Method {
    /// Returns the counter of calls that ended with this code.
    pub(super) fn handled(&self, code: StatusCode) -> &IntCounter {
        &self.handled[code.index()]
    }
}

/// The metrics of all methods.
pub(super) struct Methods {
    pub(super) registry: Registry,
    /// The methods of [`METHODS`] in order, then one for unknown methods.
    methods: Vec<Method>,
}

impl Methods {
    pub(super) fn new() -> Self {
        let registry = Registry::default();
        let labels = ["grpc_type", "grpc_service", "grpc_method"];
        let started = registry.counters("grpc_server_started_total", "Calls started", &labels);
        let seconds = registry.histograms(
            "grpc_server_handling_seconds",
            "Time from start to end of a call; of a stream, its whole lifetime",
            &labels,
            &SECONDS,
        );
        let handled = registry.counters(
            "grpc_server_handled_total",
            "Calls ended, streams included, by status code",
            &["grpc_type", "grpc_service", "grpc_method", "grpc_code"],
        );
        let method = |name: &MethodName| {
            let labels = [name.kind, name.service, name.method];
            Method {
                path: name.path,
                started: started.with_label_values(&labels),
                seconds: seconds.with_label_values(&labels),
                handled: StatusCode::all().map(|code| {
                    handled.with_label_values(&[name.kind, name.service, name.method, code.name()])
                }),
            }
        };
        let unknown = MethodName {
            path: UNKNOWN,
            service: UNKNOWN,
            method: UNKNOWN,
            kind: UNKNOWN,
            unary: None,
        };
        Self {
            methods: METHODS.names.iter().chain([&unknown]).map(method).collect(),
            registry,
        }
    }

    /// Returns the index of the method with this path, or that of unknown methods.
    pub(super) fn index_of(&self, path: &str) -> usize {
        let unknown = self.methods.len() - 1;
        METHODS.by_path.get(path).copied().unwrap_or(unknown)
    }

    /// Returns the method with this index.
    pub(super) fn get(&self, index: usize) -> &Method {
        &self.methods[index]
    }
}

/// Returns whether the server has a method with this path.
pub(super) fn exists(path: &str) -> bool {
    METHODS.by_path.contains_key(path)
}

/// The kind of a unary method, which determines the budget of its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UnaryMethod {
    /// Reads at most one row, or a number.
    Read,
    /// Reads a page of rows.
    ReadPage,
    /// Stores the content of its request; the reply is about as large.
    Create,
    /// Changes a stored row and returns it.
    Edit,
}

/// Returns the kind of the method with this path; `None` if the method is unknown or not unary.
pub(super) fn unary(path: &str) -> Option<UnaryMethod> {
    METHODS.names[*METHODS.by_path.get(path)?].unary
}

/// A method's path and metric labels.
struct MethodName {
    path: &'static str,
    service: &'static str,
    method: &'static str,
    kind: &'static str,
    unary: Option<UnaryMethod>,
}

/// All methods of the server.
struct MethodTable {
    names: Vec<MethodName>,
    /// Indexes in `names`.
    by_path: HashMap<&'static str, usize>,
}

/// The methods in the descriptors of all services. Their strings are leaked, since they are needed until the
/// process ends.
static METHODS: LazyLock<MethodTable> = LazyLock::new(|| {
    let sets = [
        pb::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    let names: Vec<MethodName> = sets.iter().flat_map(|set| methods_of(set)).collect();
    let by_path = names.iter().enumerate().map(|(index, name)| (name.path, index));
    MethodTable {
        by_path: by_path.collect(),
        names,
    }
});

fn methods_of(set: &[u8]) -> Vec<MethodName> {
    let set = FileDescriptorSet::decode(set).expect("the proto compiler wrote the descriptor set");
    let mut names = Vec::new();
    for file in &set.file {
        for service in &file.service {
            let service_name = format!("{}.{}", file.package(), service.name());
            names.extend(
                service
                    .method
                    .iter()
                    .map(|method| method_name(&service_name, method)),
            );
        }
    }
    names
}

fn method_name(service: &str, method: &MethodDescriptorProto) -> MethodName {
    let leak = |text: &str| -> &'static str { Box::leak(text.into()) };
    MethodName {
        path: leak(&format!("/{service}/{}", method.name())),
        service: leak(service),
        method: leak(method.name()),
        kind: match (method.client_streaming(), method.server_streaming()) {
            (false, false) => "unary",
            (false, true) => "server_stream",
            (true, false) => "client_stream",
            (true, true) => "bidi_stream",
        },
        unary: (!method.client_streaming() && !method.server_streaming())
            .then(|| unary_method(service, method)),
    }
}

fn unary_method(service: &str, method: &MethodDescriptorProto) -> UnaryMethod {
    let (name, options) = (method.name(), method.options.as_ref());
    let is_read = options.map(MethodOptions::idempotency_level) == Some(IdempotencyLevel::NoSideEffects);
    // The standard services have no levels, and only read.
    let is_write = !is_read && service.starts_with(PACKAGE);
    match (is_write, name) {
        (true, "CreateEvent" | "BatchCreateEvents" | "CreateSpirit") => UnaryMethod::Create,
        (true, _) => UnaryMethod::Edit,
        (false, "ListEvents" | "ListEventChanges" | "ListPurges" | "ListSessions" | "ListSpirits") => {
            UnaryMethod::ReadPage
        }
        (false, _) => UnaryMethod::Read,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_of_a_reply_follows_from_the_method() {
        for (path, expected) in [
            ("EventService/CreateEvent", Some(UnaryMethod::Create)),
            ("EventService/BatchCreateEvents", Some(UnaryMethod::Create)),
            ("EventService/GetEvent", Some(UnaryMethod::Read)),
            ("EventService/ListEvents", Some(UnaryMethod::ReadPage)),
            ("EventService/UpdateEvent", Some(UnaryMethod::Edit)),
            ("SpiritService/SoftDeleteSpirit", Some(UnaryMethod::Edit)),
            ("EventService/WatchEvents", None),
            ("EventService/IngestEvents", None),
            ("EventService/Nothing", None),
        ] {
            assert_eq!(unary(&format!("/{PACKAGE}.{path}")), expected, "{path}");
        }
        assert_eq!(unary("/grpc.health.v1.Health/Check"), Some(UnaryMethod::Read));
    }
}
