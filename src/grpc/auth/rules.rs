//! What each RPC needs of its caller.

use crate::config::Reflection;
use crate::domain::access::Permission;

/// What a call needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// No key.
    Nothing,
    /// Any key.
    AnyKey,
    /// A key with this right.
    Permission {
        right: Permission,
        /// Whether it can go on for long.
        is_stream: bool,
    },
    /// There is no rule, and so no key that would do.
    Unknown,
}

const HEALTH: &str = "/grpc.health.v1.Health/";
const REFLECTION: &str = "/grpc.reflection.";
const PACKAGE: &str = "/elephantasm.events.v1.";

impl Need {
    pub(super) fn of(path: &str, reflection: Reflection) -> Self {
        if let Some(rpc) = path.strip_prefix(PACKAGE) {
            return Self::of_rpc(rpc);
        }
        let is_open =
            path.starts_with(HEALTH) || reflection == Reflection::Open && path.starts_with(REFLECTION);
        if is_open { Self::Nothing } else { Self::AnyKey }
    }

    fn of_rpc(rpc: &str) -> Self {
        let (right, is_stream) = match rpc {
            "EventService/GetEvent"
            | "EventService/ListEvents"
            | "EventService/CountEvents"
            | "EventService/ListSessions"
            | "SpiritService/GetSpirit"
            | "SpiritService/ListSpirits"
            | "SpiritService/CountSpirits" => (Permission::Read, false),
            "EventService/StreamSessionEvents" | "EventService/WatchEvents" => (Permission::Read, true),
            "EventService/CreateEvent"
            | "EventService/BatchCreateEvents"
            | "EventService/UpdateEvent"
            | "EventService/SoftDeleteEvent"
            | "EventService/RestoreEvent" => (Permission::WriteEvents, false),
            "EventService/IngestEvents" => (Permission::WriteEvents, true),
            "SpiritService/UpdateSpirit"
            | "SpiritService/SoftDeleteSpirit"
            | "SpiritService/RestoreSpirit" => (Permission::WriteSpirits, false),
            "SpiritService/CreateSpirit" => (Permission::CreateSpirits, false),
            _ => return Self::Unknown,
        };
        Self::Permission { right, is_stream }
    }

    /// Whether the call can outlast its key.
    pub(super) fn can_last(self) -> bool {
        matches!(self, Self::AnyKey | Self::Permission { is_stream: true, .. })
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::method_options::IdempotencyLevel;
    use prost_types::{FileDescriptorSet, MethodOptions};

    use super::{Need, Reflection};
    use crate::domain::access::Permission;
    use crate::grpc::pb::FILE_DESCRIPTOR_SET;

    #[test]
    fn every_rpc_has_the_rule_that_its_proto_asks_for() {
        let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("the descriptor set");
        let services = set.file.iter().flat_map(|file| &file.service);
        let mut count = 0;
        for (service, method) in services.flat_map(|service| service.method.iter().map(move |m| (service, m)))
        {
            let (service, name) = (service.name(), method.name());
            let options = method.options.as_ref();
            let right = match options.map(MethodOptions::idempotency_level) {
                Some(IdempotencyLevel::NoSideEffects) => Permission::Read,
                _ if service == "EventService" => Permission::WriteEvents,
                _ if name.starts_with("Create") => Permission::CreateSpirits,
                _ => Permission::WriteSpirits,
            };
            let expected = Need::Permission {
                right,
                is_stream: method.server_streaming(),
            };
            let path = format!("/elephantasm.events.v1.{service}/{name}");
            assert_eq!(Need::of(&path, Reflection::Keyed), expected, "{path}");
            count += 1;
        }
        assert!(count >= 18, "{count} RPCs");
    }

    #[test]
    fn what_has_no_rule_is_closed() {
        const INFO: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
        for (path, reflection, need) in [
            (
                "/elephantasm.events.v1.EventService/DropEverything",
                Reflection::Open,
                Need::Unknown,
            ),
            (
                "/elephantasm.events.v1.EventService/getevent",
                Reflection::Open,
                Need::Unknown,
            ),
            (
                "/elephantasm.events.v2.EventService/GetEvent",
                Reflection::Open,
                Need::AnyKey,
            ),
            ("/grpc.health.v1.Health/Check", Reflection::Off, Need::Nothing),
            ("/grpc.health.v1.Healthy/Check", Reflection::Open, Need::AnyKey),
            (INFO, Reflection::Open, Need::Nothing),
            (INFO, Reflection::Keyed, Need::AnyKey),
            (INFO, Reflection::Off, Need::AnyKey),
            ("", Reflection::Open, Need::AnyKey),
        ] {
            assert_eq!(Need::of(path, reflection), need, "{path}");
        }
    }
}
