//! The state that `EventService` and `SpiritService` share.

use tokio_util::sync::CancellationToken;

use crate::domain::limits::Limits;
use crate::store::Store;

/// The state that `EventService` and `SpiritService` share. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    pub store: Store,
    pub limits: Limits,
    /// Maximum size of a request message in bytes.
    pub message_bytes_max: usize,
    /// Maximum number of unanswered items of an ingest stream.
    pub ingest_window: usize,
    /// Cancelled when the server drains; ends long-lived streams.
    pub shutdown: CancellationToken,
}
