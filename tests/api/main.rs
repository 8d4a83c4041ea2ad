//! The service as its callers see it: a real server on a free port, its own database in a real
//! PostgreSQL, gRPC on the wire. Start at [`harness`]; there is a file for each RPC or promise.

#![allow(clippy::unwrap_used)] // a test ends where something unexpected happens

mod builders;
mod harness;

mod batch_create_events;
mod create_event;
mod durability;
mod list_spirits;
mod locks;
mod merge_patch;
mod migrations;
mod sequences;
mod soft_delete_event;
mod spirits;
mod stalled_streams;
mod update_event;
mod update_spirit;
