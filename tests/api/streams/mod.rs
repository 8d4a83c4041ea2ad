//! Streaming RPCs: replay, follow, watch and ingest.

pub mod changes_exactly_once;
pub mod follow_cursors;
pub mod follow_session;
pub mod follow_transition;
pub mod ingest_events;
pub mod live_cost;
pub mod live_faults;
pub mod live_filters;
pub mod live_streams;
pub mod stalled_streams;
pub mod stream_session_events;
pub mod watch_changes;
pub mod watch_events;
pub mod watch_exactly_once;
