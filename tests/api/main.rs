//! Tests of the service over the wire: a real server on a free port, a database per test in a real
//! PostgreSQL, gRPC clients. Each folder covers one area; [`support`] holds the shared helpers.
//! Start reading at [`support::harness`].

#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod auth;
mod citus;
mod faults;
mod operations;
mod pooler;
mod protocols;
mod purges;
mod rpc;
mod schema;
mod standby;
mod streams;
mod support;
