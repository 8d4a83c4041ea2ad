//! API keys, roles, key limits and TLS.

pub mod calls;
pub mod get_access;
pub mod key_limits;
pub mod key_scope;
pub mod keys;
pub mod keys_by_rpc;
pub mod tls;
