//! The files of the web console.

use std::collections::BTreeSet;

use elephantasm_events::config::Console;
use http::Method;

use crate::support::access::KeyedServer;
use crate::support::harness::TestServer;
use crate::support::http::{Http, HttpClient, Reply, SPIRITS};

async fn get(client: &HttpClient, path: &str, headers: &[(&str, &str)]) -> Reply {
    client.send(Method::GET, path, headers, "").await
}

/// The paths that a file of the console refers to: links of the page and imports of a module.
fn references(path: &str, text: &str) -> Vec<String> {
    let directory = &path[..=path.rfind('/').unwrap()];
    let quoted = text.split('"').skip(1).step_by(2);
    quoted
        .filter_map(|name| match name.strip_prefix("./") {
            Some(module) if module.rsplit_once('.').is_some_and(|(_, suffix)| suffix == "js") => {
                Some(format!("{directory}{module}"))
            }
            _ => name.starts_with("console/").then(|| format!("/{name}")),
        })
        .collect()
}

#[tokio::test]
async fn the_page_and_everything_it_loads_are_served_with_a_strict_policy() {
    let server = TestServer::start().await;
    for http in [Http::One, Http::Two] {
        let client = HttpClient::new(server.addr, http);
        let mut open = vec!["/".to_owned()];
        let mut seen = BTreeSet::new();
        while let Some(path) = open.pop() {
            if !seen.insert(path.clone()) {
                continue;
            }
            let reply = get(&client, &path, &[]).await;
            assert_eq!(reply.status, 200, "{path}");
            let policy = reply.headers["content-security-policy"].to_str().unwrap();
            assert!(
                policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"),
                "{policy}"
            );
            assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"));
            assert_eq!(reply.headers["x-content-type-options"], "nosniff");
            assert_eq!(reply.headers["cache-control"], "no-cache");
            let content_type = reply.headers["content-type"].to_str().unwrap();
            let expected = match path.rsplit_once('.').map_or("html", |(_, extension)| extension) {
                "js" => "text/javascript; charset=utf-8",
                "css" => "text/css; charset=utf-8",
                "svg" => "image/svg+xml",
                _ => "text/html; charset=utf-8",
            };
            assert_eq!(content_type, expected, "{path}");
            open.extend(references(&path, &String::from_utf8_lossy(&reply.body)));
        }
        assert!(seen.len() > 20, "{seen:?}");
    }
}

#[tokio::test]
async fn a_file_that_a_browser_has_is_not_sent_again_and_head_has_no_content() {
    let server = TestServer::start().await;
    for http in [Http::One, Http::Two] {
        let client = HttpClient::new(server.addr, http);
        let whole = get(&client, "/console/js/main.js", &[]).await;
        let head = client.send(Method::HEAD, "/console/js/main.js", &[], "").await;
        assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
        for name in [
            "content-type",
            "content-length",
            "etag",
            "content-security-policy",
        ] {
            assert_eq!(head.headers[name], whole.headers[name], "{name}");
        }
        let etag = whole.headers["etag"].to_str().unwrap();
        let weak = format!("\"other\", W/{etag}");
        for (tags, status) in [(etag, 304), (&weak, 304), ("*", 304), ("\"other\"", 200)] {
            let reply = get(&client, "/console/js/main.js", &[("if-none-match", tags)]).await;
            assert_eq!(reply.status, status, "{tags}");
            assert_eq!(reply.body.is_empty(), status == 304, "{tags}");
            assert_eq!(reply.headers["etag"], etag);
        }
    }
}

#[tokio::test]
async fn other_paths_and_methods_are_refused_and_so_is_everything_without_the_console() {
    let on = TestServer::start().await;
    let client = HttpClient::new(on.addr, Http::One);
    for (method, path) in [
        ("POST", "/"),
        ("PUT", "/console/js/main.js"),
        ("OPTIONS", "/"),
        ("GET", "/console"),
        ("GET", "/console/"),
        ("GET", "/console/index.html"),
        ("GET", "/console/js/../../Cargo.toml"),
        ("GET", "/console/js/%2e%2e/js/main.js"),
        ("GET", "//"),
    ] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let reply = client.send(method.clone(), path, &[], "").await;
        assert_eq!(reply.status, 404, "{method} {path}");
    }
    let off = TestServer::start_with(|settings| settings.server.console = Console::Off).await;
    let client = HttpClient::new(off.addr, Http::One);
    for path in ["/", "/console/js/main.js"] {
        assert_eq!(get(&client, path, &[]).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn links_of_other_sites_lead_to_the_console_and_their_scripts_cannot_load_it() {
    let server = TestServer::start().await;
    let client = HttpClient::new(server.addr, Http::One);
    let (cross_site, navigate) = (("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"));
    let count = format!("{SPIRITS}/CountSpirits?encoding=json&message=%7B%7D");
    for (path, headers, status) in [
        ("/", &[cross_site, navigate][..], 200),
        ("/", &[cross_site], 403),
        ("/console/js/main.js", &[("origin", "https://evil.example")], 403),
        ("/", &[("host", "evil.example")], 403),
        (&count, &[cross_site, navigate], 403),
        (&count, &[], 200),
    ] {
        assert_eq!(
            get(&client, path, headers).await.status,
            status,
            "{path} {headers:?}"
        );
    }
    let keyed = KeyedServer::start().await;
    let client = HttpClient::new(keyed.server.addr, Http::One);
    assert_eq!(get(&client, "/", &[("host", "events.example")]).await.status, 200);
}
