//! Client of the server's admin HTTP endpoints: metrics and probes.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::harness::{TestServer, eventually};

/// Makes a GET request; returns status and body.
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

/// A snapshot of the server's metrics.
pub struct Scrape {
    pub text: String,
    /// Values by metric name with labels, as printed.
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

    /// The value of an existing sample, in seconds; `sample` is the name with labels, as printed.
    #[track_caller]
    pub fn seconds(&self, sample: &str) -> f64 {
        self.printed(sample).parse().unwrap()
    }

    /// The value of an existing sample that is a count.
    #[track_caller]
    pub fn count(&self, sample: &str) -> u64 {
        self.printed(sample).parse().unwrap()
    }

    #[track_caller]
    fn printed(&self, sample: &str) -> &str {
        let value = self.samples.get(sample);
        value.unwrap_or_else(|| panic!("no {sample} in\n{}", self.text))
    }

    /// The only sample with this name, method and, if not empty, `code` label.
    #[track_caller]
    fn of_method(&self, name: &str, method: &str, code: &str) -> u64 {
        let matches = |sample: &&String| {
            let labels = sample.strip_prefix(name).unwrap_or_default();
            labels.starts_with('{')
                && labels.contains(code)
                && labels.contains(&format!("grpc_method=\"{method}\""))
        };
        let found: Vec<&String> = self.samples.keys().filter(matches).collect();
        assert_eq!(found.len(), 1, "{name} of {method} {code}: {found:?}");
        self.count(found[0])
    }

    /// Number of started calls of a method.
    #[track_caller]
    pub fn started(&self, method: &str) -> u64 {
        self.of_method("grpc_server_started_total", method, "")
    }

    /// Number of calls of a method that ended with a code.
    #[track_caller]
    pub fn handled(&self, method: &str, code: &str) -> u64 {
        let code = format!("grpc_code=\"{code}\"");
        self.of_method("grpc_server_handled_total", method, &code)
    }

    /// Number of calls of a method in the latency histogram.
    #[track_caller]
    pub fn timed(&self, method: &str) -> u64 {
        self.of_method("grpc_server_handling_seconds_count", method, "")
    }
}

/// Waits until a sample of the server's metrics has this value.
pub async fn metric_reaches(server: &TestServer, sample: &str, value: u64) {
    eventually(sample, async || {
        (Scrape::of(server).await.count(sample) == value).then_some(())
    })
    .await;
}
