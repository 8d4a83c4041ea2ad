//! The permission that each RPC requires.

use crate::config::Reflection;
use crate::domain::access::Permission;

/// The requirement that a call must meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Requirement {
    /// No key.
    Nothing,
    /// Any key.
    AnyKey,
    /// A key with this permission.
    Permission {
        permission: Permission,
        /// Whether the call is a stream, which is long-lived.
        is_stream: bool,
    },
    /// The RPC has no rule, so no key is sufficient.
    Unlisted,
}

const HEALTH: &str = "/grpc.health.v1.Health/";
const REFLECTION: &str = "/grpc.reflection.";
const PACKAGE: &str = "/elephantasm.events.v1.";

impl Requirement {
    /// Returns the requirement of the RPC with this path.
    pub(super) fn of(path: &str, reflection: Reflection) -> Self {
        if let Some(rpc) = path.strip_prefix(PACKAGE) {
            return Self::of_rpc(rpc);
        }
        let is_open =
            path.starts_with(HEALTH) || reflection == Reflection::Open && path.starts_with(REFLECTION);
        if is_open { Self::Nothing } else { Self::AnyKey }
    }

    fn of_rpc(rpc: &str) -> Self {
        let (permission, is_stream) = match rpc {
            "EventService/GetEvent"
            | "EventService/ListEvents"
            | "EventService/CountEvents"
            | "EventService/ListEventChanges"
            | "SessionService/ListSessions"
            | "SessionService/GetSession"
            | "SpiritService/GetSpirit"
            | "SpiritService/ListSpirits"
            | "SpiritService/CountSpirits"
            | "AccessService/GetAccess" => (Permission::Read, false),
            "EventService/StreamSessionEvents" | "EventService/WatchEvents" | "EventService/WatchChanges" => {
                (Permission::Read, true)
            }
            "EventService/CreateEvent"
            | "EventService/BatchCreateEvents"
            | "EventService/UpdateEvent"
            | "EventService/SoftDeleteEvent"
            | "EventService/RestoreEvent"
            | "EventService/SoftDeleteEvents"
            | "EventService/RestoreEvents"
            | "SessionService/UpdateSession" => (Permission::WriteEvents, false),
            "EventService/IngestEvents" => (Permission::WriteEvents, true),
            "SpiritService/UpdateSpirit"
            | "SpiritService/SoftDeleteSpirit"
            | "SpiritService/RestoreSpirit" => (Permission::WriteSpirits, false),
            "PurgeService/PurgeEvents" | "PurgeService/PurgeSpirit" => (Permission::Purge, true),
            "PurgeService/ListPurges" => (Permission::Purge, false),
            "SpiritService/CreateSpirit" => (Permission::CreateSpirits, false),
            _ => return Self::Unlisted,
        };
        Self::Permission {
            permission,
            is_stream,
        }
    }

    /// Returns whether the call can last longer than its key is live.
    pub(super) fn may_outlast_key(self) -> bool {
        matches!(self, Self::AnyKey | Self::Permission { is_stream: true, .. })
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::method_options::IdempotencyLevel;
    use prost_types::{FileDescriptorSet, MethodOptions};

    use super::{Reflection, Requirement};
    use crate::domain::access::Permission;
    use crate::grpc::pb::FILE_DESCRIPTOR_SET;

    #[test]
    fn every_rpc_requires_the_permission_of_its_idempotency_level() {
        let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("the descriptor set");
        let services = set.file.iter().flat_map(|file| &file.service);
        let mut count = 0;
        for (service, method) in services.flat_map(|service| service.method.iter().map(move |m| (service, m)))
        {
            let (service, name) = (service.name(), method.name());
            let options = method.options.as_ref();
            let permission = match options.map(MethodOptions::idempotency_level) {
                _ if service == "PurgeService" => Permission::Purge,
                Some(IdempotencyLevel::NoSideEffects) => Permission::Read,
                _ if service != "SpiritService" => Permission::WriteEvents,
                _ if name.starts_with("Create") => Permission::CreateSpirits,
                _ => Permission::WriteSpirits,
            };
            let expected = Requirement::Permission {
                permission,
                is_stream: method.server_streaming(),
            };
            let path = format!("/elephantasm.events.v1.{service}/{name}");
            assert_eq!(Requirement::of(&path, Reflection::Keyed), expected, "{path}");
            count += 1;
        }
        assert!(count >= 18, "{count} RPCs");
    }

    #[test]
    fn paths_of_other_services_require_no_permission_and_unlisted_rpcs_are_refused() {
        const INFO: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
        for (path, reflection, requirement) in [
            (
                "/elephantasm.events.v1.EventService/DropEverything",
                Reflection::Open,
                Requirement::Unlisted,
            ),
            (
                "/elephantasm.events.v1.EventService/getevent",
                Reflection::Open,
                Requirement::Unlisted,
            ),
            (
                "/elephantasm.events.v2.EventService/GetEvent",
                Reflection::Open,
                Requirement::AnyKey,
            ),
            (
                "/grpc.health.v1.Health/Check",
                Reflection::Off,
                Requirement::Nothing,
            ),
            (
                "/grpc.health.v1.Healthy/Check",
                Reflection::Open,
                Requirement::AnyKey,
            ),
            (INFO, Reflection::Open, Requirement::Nothing),
            (INFO, Reflection::Keyed, Requirement::AnyKey),
            (INFO, Reflection::Off, Requirement::AnyKey),
            ("", Reflection::Open, Requirement::AnyKey),
        ] {
            assert_eq!(Requirement::of(path, reflection), requirement, "{path}");
        }
    }
}
