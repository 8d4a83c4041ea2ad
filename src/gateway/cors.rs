//! Cross-origin requests of web pages.

use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::config::ANY_ORIGIN;
use crate::grpc::Keyring;

/// Request headers that web pages may send.
const ALLOWED_HEADERS: [HeaderName; 11] = [
    AUTHORIZATION,
    CONTENT_TYPE,
    HeaderName::from_static("connect-protocol-version"),
    HeaderName::from_static("connect-timeout-ms"),
    HeaderName::from_static("connect-accept-encoding"),
    HeaderName::from_static("connect-content-encoding"),
    HeaderName::from_static("grpc-timeout"),
    HeaderName::from_static("x-grpc-web"),
    HeaderName::from_static("x-user-agent"),
    HeaderName::from_static("x-consistency"),
    HeaderName::from_static("x-request-id"),
];
/// Reply headers that web pages may read.
const EXPOSED_HEADERS: [HeaderName; 5] = [
    HeaderName::from_static("grpc-status"),
    HeaderName::from_static("grpc-message"),
    HeaderName::from_static("grpc-status-details-bin"),
    HeaderName::from_static("grpc-retry-pushback-ms"),
    HeaderName::from_static("x-request-id"),
];
/// Time for which browsers may remember the answer to a preflight; none remembers it longer.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_secs(2 * 60 * 60);

/// The origins of web pages that may read replies.
#[derive(Clone)]
pub struct CorsOrigins {
    /// Origins such as `https://app.example.com`, or [`ANY_ORIGIN`], which counts only while the server has API keys.
    pub origins: Vec<String>,
    /// Determines whether the server has API keys.
    pub keyring: Keyring,
}

impl CorsOrigins {
    fn allow(&self, origin: &HeaderValue) -> bool {
        self.origins.iter().any(|allowed| {
            let is_any = allowed == ANY_ORIGIN && self.keyring.is_keyed();
            is_any || origin.as_bytes().eq_ignore_ascii_case(allowed.as_bytes())
        })
    }
}

/// Returns the layer that answers preflights and allows these origins; `None` without origins.
#[must_use]
pub fn cors_layer(origins: CorsOrigins) -> Option<CorsLayer> {
    if origins.origins.is_empty() {
        return None;
    }
    let allow = move |origin: &HeaderValue, _: &Parts| origins.allow(origin);
    Some(
        CorsLayer::new()
            .allow_origin(AllowOrigin::predicate(allow))
            .allow_methods([Method::GET, Method::POST])
            .allow_headers(ALLOWED_HEADERS)
            .expose_headers(EXPOSED_HEADERS)
            .max_age(PREFLIGHT_MAX_AGE),
    )
}
