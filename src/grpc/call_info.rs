//! Request id and API key of the current call, available to the code that handles it.

use std::sync::{Arc, OnceLock};

use http::HeaderValue;
use tokio_util::sync::CancellationToken;

tokio::task_local! {
    /// Set by the outermost layer for the duration of a call.
    pub(super) static CURRENT: Arc<CallInfo>;
}

/// Request id and API key of a call.
#[derive(Debug)]
pub(super) struct CallInfo {
    /// The request id that the caller sent, or a generated one; visible ASCII.
    pub(super) request_id: HeaderValue,
    /// Name of the caller's API key; set by the auth layer.
    pub(super) key: OnceLock<Arc<str>>,
    /// Cancelled when the API key is revoked or expires; set by the auth layer.
    pub(super) key_end: OnceLock<CancellationToken>,
}

impl CallInfo {
    /// Returns the request id as text.
    pub(super) fn request_id(&self) -> &str {
        self.request_id.to_str().unwrap_or_default()
    }

    /// Returns the name of the API key; empty if the call has none.
    pub(super) fn key_name(&self) -> &str {
        self.key.get().map_or("", |name| name)
    }
}

/// Returns the current call; `None` outside a call, as in a spawned task.
pub(super) fn current() -> Option<Arc<CallInfo>> {
    CURRENT.try_with(Arc::clone).ok()
}
