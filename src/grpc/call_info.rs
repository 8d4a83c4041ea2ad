//! The call that the running code works on: its request id and its API key.

use std::sync::{Arc, OnceLock};

use http::HeaderValue;

tokio::task_local! {
    /// Set by the outermost layer for the time of a call.
    pub(super) static CURRENT: Arc<CallInfo>;
}

/// What belongs to a call, for those who work on it.
#[derive(Debug)]
pub(super) struct CallInfo {
    /// The caller's, or made; visible ASCII.
    pub(super) request_id: HeaderValue,
    /// The name of the caller's key; whoever checks the key sets it.
    pub(super) key: OnceLock<Arc<str>>,
}

impl CallInfo {
    pub(super) fn request_id(&self) -> &str {
        self.request_id.to_str().unwrap_or_default()
    }

    pub(super) fn key_name(&self) -> &str {
        self.key.get().map_or("", |name| name)
    }
}

/// The call that the running code works on; `None` in tasks of their own.
pub(super) fn current() -> Option<Arc<CallInfo>> {
    CURRENT.try_with(Arc::clone).ok()
}
