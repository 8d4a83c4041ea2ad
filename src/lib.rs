//! Elephantasm Events: what agents live through, stored once and replayable in order.
//!
//! Layers, outermost first; each knows only those below it:
//!
//! - [`cli`]: the subcommands of the one binary;
//! - [`server`]: puts services, health, reflection and layers together, and drains them;
//! - [`gathered`]: connections that send replies together;
//! - [`admin`]: metrics and readiness over HTTP, for operators;
//! - [`grpc`]: the wire: converts messages to domain types and back, chooses status codes;
//! - [`store`]: PostgreSQL: all SQL, the write path, replay;
//! - [`domain`]: pure types and rules; [`metrics`]: makes the counters of each layer; [`panics`]: what goes
//!   on after one.
//!
//! To follow a create: `grpc/event_service.rs`, `grpc/convert/create.rs`, `store/ingest.rs`,
//! `store/ingest/flush.rs`, `domain/admission.rs`. To follow a replay: `grpc/streams.rs`,
//! `store/replay.rs`, `store/reader.rs`, `store/events.rs`.

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
