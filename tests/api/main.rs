//! The service as its callers see it: a real server on a free port, its own database in a real
//! PostgreSQL, gRPC on the wire. Start at [`harness`]; there is a file for each RPC or promise.

#![allow(clippy::unwrap_used)] // a test ends where something unexpected happens

mod access;
mod builders;
#[path = "../shared/certificates.rs"]
mod certificates;
mod harness;
mod live;
mod model;
mod pgbouncer;
mod probes;
mod proxy;
mod raw;
mod scrape;

mod batch_create_events;
mod call_metrics;
mod conversion;
mod count_events;
mod create_event;
mod cursors;
mod database_faults;
mod deadlines;
mod durability;
mod error_metadata;
mod errors;
mod flush_faults;
mod flush_paths;
mod follow_cursors;
mod follow_seam;
mod follow_session;
mod garbage;
mod get_event;
mod health_reflection;
mod ingest_events;
mod keys;
mod keys_by_rpc;
mod killed_database;
mod list_events;
mod list_sessions;
mod list_spirits;
mod live_checker;
mod live_cost;
mod live_faults;
mod live_filters;
mod live_streams;
mod locks;
mod merge_patch;
mod migrations;
mod misbehaving_clients;
mod operator_files;
mod operators;
mod panics;
mod plans;
mod pooler;
mod pooler_load;
mod queue_bounds;
mod request_ids;
mod sequences;
mod soft_delete_event;
mod spirits;
mod stalled_streams;
mod statements;
mod storm;
mod stream_session_events;
mod tls;
mod update_event;
mod update_spirit;
mod validation_events;
mod validation_ingest;
mod validation_reads;
mod validation_spirits;
mod watch_events;
