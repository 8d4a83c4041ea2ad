//! Checks `Origin` and `Host` of requests to a server without API keys.
//!
//! Such a server executes every call that reaches it, so a foreign web page must not be able to make one:
//! neither by a cross-origin request, nor under a host name that its author has pointed at this address (DNS
//! rebinding).

use std::net::{IpAddr, Ipv6Addr};

use http::header::{HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, Request, Uri, Version};

use super::protocol::is_grpc;

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
pub(in crate::grpc) enum ForeignOrigin {
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

impl OriginRules {
    /// Rejects a request of a web page of another origin and, on a loopback listener, one for another host.
    pub(in crate::grpc) fn check<B>(&self, request: &Request<B>) -> Result<(), ForeignOrigin> {
        let host = host_of(request.uri(), request.headers());
        self.check_origin(request.headers(), host.as_ref())?;
        // A browser sends this content type over HTTP/2 only with TLS and a certificate for the host's name.
        let is_exempt = request.version() == Version::HTTP_2 && is_grpc(request.headers());
        if self.is_loopback && !is_exempt {
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

    /// Method, version, headers, expected rejection.
    type Case<'c> = (&'c str, Version, &'c [(&'c str, &'c str)], bool);

    fn request(version: Version, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder()
            .method("POST")
            .uri("/elephantasm.events.v1.EventService/CreateEvent")
            .version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn pages_of_other_origins_are_rejected_and_pages_of_this_origin_are_accepted() {
        let rules = OriginRules {
            cors_origins: vec!["https://app.example.com".to_owned()],
            allowed_hosts: vec!["host.docker.internal".to_owned()],
            is_loopback: true,
        };
        let grpc = ("content-type", "application/grpc");
        let (http1, http2) = (Version::HTTP_11, Version::HTTP_2);
        let cases: &[Case<'_>] = &[
            (
                "a gRPC client",
                http2,
                &[grpc, ("host", "db.example.com:50051")],
                false,
            ),
            (
                "another origin over gRPC",
                http2,
                &[
                    grpc,
                    ("host", "localhost:50051"),
                    ("origin", "https://evil.example"),
                ],
                true,
            ),
            (
                "another origin",
                http1,
                &[("host", "localhost:50051"), ("origin", "https://evil.example")],
                true,
            ),
            (
                "a sandboxed page",
                http1,
                &[("host", "localhost:50051"), ("origin", "null")],
                true,
            ),
            (
                "an image of another site",
                http1,
                &[("host", "localhost:50051"), ("sec-fetch-site", "cross-site")],
                true,
            ),
            (
                "this origin",
                http1,
                &[("host", "localhost:50051"), ("origin", "http://localhost:50051")],
                false,
            ),
            (
                "another port",
                http1,
                &[("host", "localhost:50051"), ("origin", "http://localhost:3000")],
                true,
            ),
            (
                "the default port",
                http1,
                &[("host", "localhost"), ("origin", "https://localhost:443")],
                false,
            ),
            (
                "a named origin",
                http1,
                &[("host", "localhost:50051"), ("origin", "https://app.example.com")],
                false,
            ),
            ("a rebound name", http1, &[("host", "evil.example:50051")], true),
            (
                "a rebound name as origin",
                http1,
                &[
                    ("host", "evil.example:50051"),
                    ("origin", "http://evil.example:50051"),
                ],
                true,
            ),
            ("no host", http1, &[], true),
            (
                "an allowed host",
                http1,
                &[("host", "host.docker.internal:50051")],
                false,
            ),
            ("an address", http1, &[("host", "127.0.0.53:50051")], false),
            ("an IPv6 address", http1, &[("host", "[::1]:50051")], false),
            (
                "a name below localhost",
                http1,
                &[("host", "console.localhost")],
                false,
            ),
        ];
        for (description, version, headers, is_rejected) in cases {
            let checked = rules.check(&request(*version, headers));
            assert_eq!(checked.is_err(), *is_rejected, "{description}: {checked:?}");
        }
    }

    #[test]
    fn a_listener_on_other_addresses_accepts_every_host() {
        let rules = OriginRules::default();
        let peer = request(Version::HTTP_11, &[("host", "events:50051")]);
        assert_eq!(rules.check(&peer), Ok(()));
    }
}
