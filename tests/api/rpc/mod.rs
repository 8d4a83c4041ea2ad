//! Tests of the unary RPCs: a file for each RPC, and for each rule that several RPCs share.

pub mod batch_create_events;
pub mod conversion;
pub mod count_events;
pub mod create_event;
pub mod cursors;
pub mod error_metadata;
pub mod errors;
pub mod get_event;
pub mod health_reflection;
pub mod list_events;
pub mod list_sessions;
pub mod list_spirits;
pub mod long_values;
pub mod merge_patch;
pub mod sequences;
pub mod session_guard;
pub mod soft_delete_event;
pub mod spirits;
pub mod update_event;
pub mod update_spirit;
pub mod validation_events;
pub mod validation_ingest;
pub mod validation_reads;
pub mod validation_spirits;
