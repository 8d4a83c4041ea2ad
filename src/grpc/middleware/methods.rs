//! The methods that there are, each with its instruments, made once: to count a call makes no label.

use std::collections::HashMap;
use std::sync::LazyLock;

use prometheus::{Histogram, IntCounter};
use prost::Message as _;
use prost_types::{FileDescriptorSet, MethodDescriptorProto};

use crate::grpc::pb;
use crate::grpc::status::Ending;
use crate::metrics::Registry;

const SECONDS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// What stands for methods that nobody has: a caller can ask for any name.
const UNKNOWN: &str = "unknown";

/// A method's path and instruments.
pub(super) struct Method {
    pub(super) path: &'static str,
    pub(super) started: IntCounter,
    pub(super) seconds: Histogram,
    handled: [IntCounter; Ending::COUNT],
}

impl Method {
    /// The count of calls that ended so.
    pub(super) fn handled(&self, ending: Ending) -> &IntCounter {
        &self.handled[ending.index()]
    }
}

/// What is counted of each method.
pub(super) struct Methods {
    pub(super) registry: Registry,
    /// Those of [`KNOWN`], then the one of unknown methods.
    methods: Vec<Method>,
}

impl Methods {
    pub(super) fn new() -> Self {
        let registry = Registry::default();
        let labels = ["grpc_type", "grpc_service", "grpc_method"];
        let started = registry.counters("grpc_server_started_total", "Calls that were begun", &labels);
        let seconds = registry.histograms(
            "grpc_server_handling_seconds",
            "Time from a call's begin to its end; a stream's whole life",
            &labels,
            &SECONDS,
        );
        let handled = registry.counters(
            "grpc_server_handled_total",
            "Calls that have ended, streams included, by the code that they ended with",
            &["grpc_type", "grpc_service", "grpc_method", "grpc_code"],
        );
        let method = |known: &Known| {
            let labels = [known.kind, known.service, known.method];
            Method {
                path: known.path,
                started: started.with_label_values(&labels),
                seconds: seconds.with_label_values(&labels),
                handled: Ending::all().map(|ending| {
                    handled.with_label_values(&[known.kind, known.service, known.method, ending.name()])
                }),
            }
        };
        let unknown = Known {
            path: UNKNOWN,
            service: UNKNOWN,
            method: UNKNOWN,
            kind: UNKNOWN,
        };
        Self {
            methods: KNOWN.all.iter().chain([&unknown]).map(method).collect(),
            registry,
        }
    }

    /// Where the method of this path stands.
    pub(super) fn find(&self, path: &str) -> usize {
        let unknown = self.methods.len() - 1;
        KNOWN.by_path.get(path).copied().unwrap_or(unknown)
    }

    pub(super) fn get(&self, index: usize) -> &Method {
        &self.methods[index]
    }
}

/// A method as the metrics name it.
struct Known {
    path: &'static str,
    service: &'static str,
    method: &'static str,
    kind: &'static str,
}

/// All methods that the server has.
struct AllKnown {
    all: Vec<Known>,
    by_path: HashMap<&'static str, usize>,
}

/// Kept for the life of the process: there are as many as the protos have.
static KNOWN: LazyLock<AllKnown> = LazyLock::new(|| {
    let sets = [
        pb::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    let all: Vec<Known> = sets.iter().flat_map(|set| methods_of(set)).collect();
    let by_path = all.iter().enumerate().map(|(index, known)| (known.path, index));
    AllKnown {
        by_path: by_path.collect(),
        all,
    }
});

fn methods_of(set: &[u8]) -> Vec<Known> {
    let set = FileDescriptorSet::decode(set).expect("the compiler of the protos made it");
    let mut all = Vec::new();
    for file in &set.file {
        for service in &file.service {
            let name = format!("{}.{}", file.package(), service.name());
            all.extend(service.method.iter().map(|method| known(&name, method)));
        }
    }
    all
}

fn known(service: &str, method: &MethodDescriptorProto) -> Known {
    let kept = |text: &str| -> &'static str { Box::leak(text.into()) };
    Known {
        path: kept(&format!("/{service}/{}", method.name())),
        service: kept(service),
        method: kept(method.name()),
        kind: match (method.client_streaming(), method.server_streaming()) {
            (false, false) => "unary",
            (false, true) => "server_stream",
            (true, false) => "client_stream",
            (true, true) => "bidi_stream",
        },
    }
}
