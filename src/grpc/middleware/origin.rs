//! Checks `Origin` and `Host` of requests to a server without API keys.
//!
//! Such a server executes every call that reaches it, so a foreign web page must not be able to make one:
//! neither by a cross-origin request, nor under a host name that its author has pointed at this address (DNS
//! rebinding).

use std::net::{IpAddr, Ipv6Addr};

use http::header::{HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, Request, Uri, Version};

/// The origins and hosts that a server without API keys accepts beside its own.
#[derive(Clone, Debug, Default)]
pub struct OriginRules {
    /// Origins of web pages that may call the server, such as `https://app.example.com`.
    pub cors_origins: Vec<String>,
    /// Host names, without port, that clients of a loopback listener may use beside local names.
    pub allowed_hosts: Vec<String>,
    /// Whether the server listens on a loopback address, where clients use local host names.
    pub is_loopback: bool,
}

/// The reason for which a request is rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForeignOrigin {
    #[error(
        "this server has no API keys, and the request comes from a web page of another origin, {0}; \
         --cors-origin would allow it"
    )]
    Origin(String),
    #[error(
        "this server has no API keys, and the request comes from a web page of another site; create an API key \
         to allow such requests"
    )]
    CrossSite,
    #[error(
        "this server has no API keys and listens on a loopback address, and the request is for the host {0}; \
         --allowed-host would allow it"
    )]
    Host(String),
}

const SEC_FETCH_SITE: &str = "sec-fetch-site";
const SEC_FETCH_MODE: &str = "sec-fetch-mode";

impl OriginRules {
    /// Rejects a request of a web page of another origin and, on a loopback listener, one for another host.
    pub(in crate::grpc) fn check<B>(&self, request: &Request<B>, is_grpc: bool) -> Result<(), ForeignOrigin> {
        let host = host_of(request.uri(), request.headers());
        self.check_origin(request.headers(), host.as_ref())?;
        // A browser sends this content type over HTTP/2 only with TLS and a certificate for the host's name.
        let is_exempt = request.version() == Version::HTTP_2 && is_grpc;
        if self.is_loopback && !is_exempt {
            self.check_host(host.as_ref())?;
        }
        Ok(())
    }

    /// Rejects a request for a static file by the rules for calls, except that a link or a bookmark of another site may
    /// lead to the file.
    pub fn check_page<B>(&self, request: &Request<B>) -> Result<(), ForeignOrigin> {
        let host = host_of(request.uri(), request.headers());
        let mode = request.headers().get(SEC_FETCH_MODE);
        if mode.is_none_or(|mode| mode != "navigate") {
            self.check_origin(request.headers(), host.as_ref())?;
        }
        if self.is_loopback {
            self.check_host(host.as_ref())?;
        }
        Ok(())
    }

    fn check_origin(&self, headers: &HeaderMap, host: Option<&Authority>) -> Result<(), ForeignOrigin> {
        let Some(origin) = headers.get(ORIGIN) else {
            let is_cross_site = headers
                .get(SEC_FETCH_SITE)
                .is_some_and(|site| site.as_bytes().eq_ignore_ascii_case(b"cross-site"));
            return if is_cross_site {
                Err(ForeignOrigin::CrossSite)
            } else {
                Ok(())
            };
        };
        let text = String::from_utf8_lossy(origin.as_bytes()).into_owned();
        let is_named = self
            .cors_origins
            .iter()
            .any(|allowed| allowed.eq_ignore_ascii_case(&text));
        if is_named || host.is_some_and(|host| is_same_host(&text, host)) {
            Ok(())
        } else {
            Err(ForeignOrigin::Origin(text.chars().take(256).collect()))
        }
    }

    fn check_host(&self, host: Option<&Authority>) -> Result<(), ForeignOrigin> {
        let name = host.map(Authority::host).unwrap_or_default();
        let is_allowed = || {
            self.allowed_hosts
                .iter()
                .any(|allowed| allowed.eq_ignore_ascii_case(name))
        };
        if is_local(name) || is_allowed() {
            Ok(())
        } else {
            Err(ForeignOrigin::Host(name.chars().take(256).collect()))
        }
    }
}

/// Returns the host and port to which the request is addressed.
fn host_of(uri: &Uri, headers: &HeaderMap) -> Option<Authority> {
    uri.authority().cloned().or_else(|| {
        let host = headers.get(HOST)?.as_bytes();
        Authority::try_from(host).ok()
    })
}

/// Returns whether an origin has the host and the port of the request. Schemes are not compared, because a
/// proxy may add TLS; the origin's scheme determines the default port of both.
fn is_same_host(origin: &str, host: &Authority) -> bool {
    let Some((scheme, rest)) = origin.split_once("://") else {
        return false; // "null"
    };
    let default_port = if scheme.eq_ignore_ascii_case("https") {
        443
    } else {
        80
    };
    let Ok(origin) = Authority::try_from(rest) else {
        return false;
    };
    let port = |authority: &Authority| authority.port_u16().unwrap_or(default_port);
    origin.host().eq_ignore_ascii_case(host.host()) && port(&origin) == port(host)
}

/// Returns whether a host name always resolves to this host.
fn is_local(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let address = name.trim_start_matches('[').trim_end_matches(']').parse();
    name == "localhost"
        || name.ends_with(".localhost")
        || match address {
            Ok(IpAddr::V4(address)) => address.is_loopback(),
            Ok(IpAddr::V6(address)) => address == Ipv6Addr::LOCALHOST,
            Err(_) => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRPC: &str = "application/grpc";
    const HOST_ALLOWED: &str = "host.docker.internal";

    /// A request with these headers: content type, host, origin, `Sec-Fetch-Site`. An empty one is left out.
    fn rejects(version: Version, [content_type, host, origin, site]: [&str; 4]) -> bool {
        let rules = OriginRules {
            cors_origins: vec!["https://app.example.com".to_owned()],
            allowed_hosts: vec![HOST_ALLOWED.to_owned()],
            is_loopback: true,
        };
        let mut request = Request::builder().method("POST").uri("/").version(version);
        for (name, value) in [("host", host), ("origin", origin), (SEC_FETCH_SITE, site)] {
            if !value.is_empty() {
                request = request.header(name, value);
            }
        }
        let request = request.body(()).unwrap_or_else(|error| panic!("{error}"));
        rules.check(&request, content_type == GRPC).is_err()
    }

    #[test]
    fn pages_of_other_origins_are_rejected_and_pages_of_this_origin_are_accepted() {
        for (headers, is_rejected) in [
            (["", "localhost:50051", "https://evil.example", ""], true),
            (["", "localhost:50051", "null", ""], true),
            (["", "localhost:50051", "", "cross-site"], true),
            (["", "localhost:50051", "", "same-origin"], false),
            (["", "localhost:50051", "http://localhost:3000", ""], true),
            (["", "localhost:50051", "http://localhost:50051", ""], false),
            (["", "localhost", "https://localhost:443", ""], false),
            (["", "localhost:50051", "https://app.example.com", ""], false),
        ] {
            assert_eq!(rejects(Version::HTTP_11, headers), is_rejected, "{headers:?}");
        }
        let over_grpc = [GRPC, "localhost:50051", "https://evil.example", ""];
        assert!(rejects(Version::HTTP_2, over_grpc));
    }

    #[test]
    fn a_loopback_listener_accepts_local_and_allowed_hosts_and_grpc_for_any_host() {
        for (host, is_rejected) in [
            ("", true),
            ("evil.example:50051", true),
            ("127.0.0.53:50051", false),
            ("[::1]:50051", false),
            ("console.localhost", false),
            (HOST_ALLOWED, false),
        ] {
            assert_eq!(
                rejects(Version::HTTP_11, ["", host, "", ""]),
                is_rejected,
                "{host}"
            );
        }
        let rebound = ["", "evil.example:50051", "http://evil.example:50051", ""];
        assert!(
            rejects(Version::HTTP_11, rebound),
            "a name that points to this host"
        );
        assert!(!rejects(Version::HTTP_2, [GRPC, "db.example.com:50051", "", ""]));
    }

    #[test]
    fn a_listener_on_other_addresses_accepts_every_host() {
        let request = Request::builder().header("host", "events:50051").body(());
        let request = request.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(OriginRules::default().check(&request, false), Ok(()));
    }
}
