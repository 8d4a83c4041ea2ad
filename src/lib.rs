//! Elephantasm Events stores the events of AI agents durably and replays them in order.
//!
//! Layers, outermost first. A layer depends only on layers below it:
//!
//! - [`cli`]: the subcommands of the binary;
//! - [`server`]: assembles services and middleware, serves, and drains;
//! - [`admin`]: serves metrics and readiness to operators over HTTP;
//! - [`console`]: the files of the web console, embedded;
//! - [`gateway`]: translates Connect and gRPC-Web to gRPC and back;
//! - [`grpc`]: converts messages to domain types and back, authenticates calls, chooses status codes;
//! - [`store`]: all SQL: the write path, replay and live streams on PostgreSQL;
//! - [`embedded_postgres`]: runs a private PostgreSQL, independent of the other layers;
//! - [`telemetry`]: logs and traces;
//! - [`config`]: flags, environment variables, their defaults and bounds;
//! - [`domain`]: pure types and rules;
//! - [`formats`]: transcripts of other tools to events and back, independent of the other layers;
//! - [`metrics`]: Prometheus metrics, independent of the other layers;
//! - [`panics`]: catches panics and restarts tasks, independent of the other layers.
//!
//! To follow a create, read `grpc/event_service.rs`, `grpc/convert/create.rs`, `store/write/mod.rs`,
//! `store/write/writer.rs`, `store/write/fast_path.rs` or `store/write/flush.rs`, and `domain/admission.rs`.
//! To follow a replay, read `grpc/streams.rs`, `store/live/replay.rs` and `store/read/list_events.rs`.

pub mod admin;
pub mod cli;
pub mod config;
pub mod console;
pub mod domain;
pub mod embedded_postgres;
pub mod formats;
pub mod gateway;
pub mod grpc;
pub mod metrics;
pub mod panics;
pub mod server;
pub mod store;
pub mod telemetry;
