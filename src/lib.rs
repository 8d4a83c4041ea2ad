//! Elephantasm Events stores the events of AI agents durably and replays them in order.
//!
//! Layers, outermost first. A layer depends only on layers below it:
//!
//! - [`cli`]: the subcommands of the binary;
//! - [`server`]: assembles services and middleware, serves, and drains;
//! - [`admin`]: metrics and readiness over HTTP, for operators;
//! - [`grpc`]: the wire: converts messages to domain types and back, chooses status codes;
//! - [`store`]: PostgreSQL: all SQL, the write path, replay and live streams;
//! - [`embedded_postgres`]: runs a private PostgreSQL, independent of the other layers;
//! - [`telemetry`]: logs and traces;
//! - [`config`]: settings: flags, environment variables, defaults and bounds;
//! - [`domain`]: pure types and rules;
//! - [`metrics`]: Prometheus metrics, independent of the other layers;
//! - [`panics`]: catches panics and restarts tasks, independent of the other layers.
//!
//! To follow a create, read `grpc/event_service.rs`, `grpc/convert/create.rs`, `store/write/mod.rs`,
//! `store/write/writer.rs`, `store/write/fast_path.rs` or `store/write/flush.rs`, and `domain/admission.rs`.
//! To follow a replay, read `grpc/streams.rs`, `store/live/replay.rs` and `store/read/list_events.rs`.

pub mod admin;
pub mod cli;
pub mod config;
pub mod domain;
pub mod embedded_postgres;
pub mod grpc;
pub mod metrics;
pub mod panics;
pub mod server;
pub mod store;
pub mod telemetry;
