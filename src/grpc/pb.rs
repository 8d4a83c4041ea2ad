//! The generated messages, clients and servers.

#![allow(clippy::all, clippy::pedantic, missing_docs)]

tonic::include_proto!("elephantasm.events.v1");

/// The descriptors of the services and their messages, comments included, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/events_descriptor.bin"));
