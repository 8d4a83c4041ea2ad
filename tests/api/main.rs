//! The service as its callers see it: a real server on a free port, its own database in a real
//! PostgreSQL, gRPC on the wire. The folders mirror what the tests promise; [`support`] holds what they
//! share, and a test starts at [`support::harness`].

#![allow(clippy::unwrap_used)] // a test ends where something unexpected happens

mod auth;
mod faults;
mod operations;
mod pooler;
mod rpc;
mod schema;
mod standby;
mod streams;
mod support;
