//! What the server says to operators, as they ask for it: HTTP on an address of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::harness::TestServer;

/// Status and body of a GET.
pub async fn get(addr: SocketAddr, path: &str) -> (u16, String) {
    let mut connection = TcpStream::connect(addr).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    connection.read_to_string(&mut reply).await.unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

/// The metrics at one time.
pub struct Scrape {
    pub text: String,
    /// By name with labels, as it is printed.
    samples: BTreeMap<String, String>,
}

impl Scrape {
    pub async fn of(server: &TestServer) -> Self {
        let (status, text) = get(server.admin, "/metrics").await;
        assert_eq!(status, 200);
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let samples = samples.map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.to_owned())
        });
        Self {
            samples: samples.collect(),
            text,
        }
    }

    /// A sample as it is printed, which must be there.
    #[track_caller]
    pub fn seconds(&self, sample: &str) -> f64 {
        self.printed(sample).parse().unwrap()
    }

    /// The same of something that is counted.
    #[track_caller]
    pub fn count(&self, sample: &str) -> u64 {
        self.printed(sample).parse().unwrap()
    }

    #[track_caller]
    fn printed(&self, sample: &str) -> &str {
        let value = self.samples.get(sample);
        value.unwrap_or_else(|| panic!("no {sample} in\n{}", self.text))
    }

    /// A sample of a method of EventService, by its name and further labels as they are printed.
    #[track_caller]
    fn of_method(&self, name: &str, method: &str, code: &str) -> u64 {
        let is_it = |sample: &&String| {
            let labels = sample.strip_prefix(name).unwrap_or_default();
            labels.starts_with('{')
                && labels.contains(code)
                && labels.contains(&format!("grpc_method=\"{method}\""))
        };
        let found: Vec<&String> = self.samples.keys().filter(is_it).collect();
        assert_eq!(found.len(), 1, "{name} of {method} {code}: {found:?}");
        self.count(found[0])
    }

    /// Calls of a method that were begun.
    #[track_caller]
    pub fn started(&self, method: &str) -> u64 {
        self.of_method("grpc_server_started_total", method, "")
    }

    /// Calls of a method that ended with a code.
    #[track_caller]
    pub fn handled(&self, method: &str, code: &str) -> u64 {
        let code = format!("grpc_code=\"{code}\"");
        self.of_method("grpc_server_handled_total", method, &code)
    }

    /// Calls of a method whose time was taken.
    #[track_caller]
    pub fn timed(&self, method: &str) -> u64 {
        self.of_method("grpc_server_handling_seconds_count", method, "")
    }
}
