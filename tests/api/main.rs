//! The service as its callers see it: a real server on a free port, its own database in a real
//! PostgreSQL, gRPC on the wire. Start at [`harness`]; there is a file for each RPC or promise.

#![allow(clippy::unwrap_used)] // a test ends where something unexpected happens

mod builders;
mod harness;
mod probes;
mod raw;

mod batch_create_events;
mod conversion;
mod create_event;
mod durability;
mod error_metadata;
mod errors;
mod health_reflection;
mod ingest_events;
mod locks;
mod sequences;
mod stalled_streams;
mod validation_events;
mod validation_reads;
mod validation_spirits;
