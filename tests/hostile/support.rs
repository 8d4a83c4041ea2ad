//! A server process with small limits, its memory and metrics, and a bare HTTP/2 client.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use elephantasm_events::grpc::pb::CountSpiritsRequest;
use elephantasm_events::grpc::pb::spirit_service_client::SpiritServiceClient;
use h2::client::SendRequest;
use h2::{RecvStream, client};
use http::{HeaderMap, Method, Request, StatusCode};
use prost::Message;
use prost::bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::Status;
use tonic::metadata::MetadataValue;

use crate::harness::{PATIENCE, Server, TestDir, eventually, finish};

pub const MIB: usize = 1024 * 1024;
pub const CREATE_SPIRIT: &str = "/elephantasm.events.v1.SpiritService/CreateSpirit";
pub const LIST_EVENTS: &str = "/elephantasm.events.v1.EventService/ListEvents";
pub const BATCH_CREATE: &str = "/elephantasm.events.v1.EventService/BatchCreateEvents";
pub const CREATE_EVENT: &str = "/elephantasm.events.v1.EventService/CreateEvent";

/// A server process with a private PostgreSQL and an admin address.
pub struct Host {
    pub test_dir: TestDir,
    pub server: Server,
    admin: SocketAddr,
}

impl Host {
    /// Starts a server with these flags.
    pub async fn start(flags: &[&str]) -> Self {
        let test_dir = TestDir::new();
        let flags = [&["--admin-addr", "127.0.0.1:0", "--log-format", "json"], flags].concat();
        let server = Server::run(&test_dir, &mut test_dir.command(&flags)).await;
        let log = server.log();
        let line = log
            .lines()
            .find(|line| line.contains("serving metrics"))
            .unwrap_or_else(|| panic!("{log}"));
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let addr = find(&line, "addr").unwrap_or_else(|| panic!("{line}"));
        Self {
            admin: addr.parse().unwrap(),
            test_dir,
            server,
        }
    }

    /// Resident memory of the server in bytes.
    pub fn resident(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.server.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib * 1024
    }

    /// Time for which the threads of the server have run, and for which they were ready and waited for a CPU. Zero
    /// where the kernel does not record it.
    pub fn scheduled(&self) -> (Duration, Duration) {
        let threads = fs::read_dir(format!("/proc/{}/task", self.server.pid())).unwrap();
        let mut total = (Duration::ZERO, Duration::ZERO);
        for thread in threads {
            let path = thread.unwrap().path().join("schedstat");
            let times = fs::read_to_string(path).unwrap_or_default();
            let mut times = times.split_whitespace().map(|nanos| nanos.parse().unwrap());
            total.0 += Duration::from_nanos(times.next().unwrap_or_default());
            total.1 += Duration::from_nanos(times.next().unwrap_or_default());
        }
        total
    }

    /// The value of a count without labels.
    pub async fn metric(&self, name: &str) -> usize {
        let mut connection = TcpStream::connect(self.admin).await.unwrap();
        let request = b"GET /metrics HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
        connection.write_all(request).await.unwrap();
        let mut reply = String::new();
        connection.read_to_string(&mut reply).await.unwrap();
        let value = reply
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value
            .unwrap_or_else(|| panic!("no {name} in {reply}"))
            .parse()
            .unwrap()
    }

    /// Creates an API key and waits until the server requires one.
    pub async fn key(&self, role: &str) -> String {
        let arguments = ["key", "create", "--name", role, "--role", role];
        let created = finish(&mut self.test_dir.command(&arguments)).await.exits_with(0);
        eventually("the server requires an API key", async || {
            let counted = self.spirit_count(None).await;
            counted.is_err().then_some(())
        })
        .await;
        created.stdout.trim().to_owned()
    }

    pub async fn spirit_count(&self, key: Option<&str>) -> Result<i64, Status> {
        let mut request = tonic::Request::new(CountSpiritsRequest::default());
        if let Some(key) = key {
            let value = format!("Bearer {key}").parse::<MetadataValue<_>>().unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        let mut spirits = SpiritServiceClient::new(self.server.channel().await);
        let counted = spirits.count_spirits(request).await?;
        Ok(counted.into_inner().count)
    }

    pub fn addr(&self) -> SocketAddr {
        self.server.addr.parse().unwrap()
    }
}

/// The text of a field of a log record.
fn find(record: &serde_json::Value, name: &str) -> Option<String> {
    let field = record.get(name).or_else(|| record.get("fields")?.get(name))?;
    Some(field.as_str()?.to_owned())
}

/// An HTTP/2 connection that sends requests as they are given.
#[derive(Clone)]
pub struct Raw {
    authority: String,
    requests: SendRequest<Bytes>,
}

/// A reply, read to its end.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    /// Headers and trailers.
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Raw {
    pub async fn connect(addr: SocketAddr) -> Self {
        Self::connect_with(addr, &client::Builder::new()).await
    }

    pub async fn connect_with(addr: SocketAddr, builder: &client::Builder) -> Self {
        let socket = TcpStream::connect(addr).await.unwrap();
        let (requests, connection) = builder.handshake(socket).await.unwrap();
        tokio::spawn(connection);
        Self::over(requests, addr)
    }

    /// Sends requests over an existing connection.
    pub fn over(requests: SendRequest<Bytes>, addr: SocketAddr) -> Self {
        Self {
            authority: addr.to_string(),
            requests,
        }
    }

    /// Sends the requests to another host name on the same connection.
    pub fn with_authority(&self, authority: &str) -> Self {
        Self {
            authority: authority.to_owned(),
            ..self.clone()
        }
    }

    /// Sends a request and returns its reply, which may be pending.
    pub async fn open(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<client::ResponseFuture, h2::Error> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.authority))
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut requests = self.requests.clone().ready().await?;
        let (response, mut sent) = requests.send_request(request.body(()).unwrap(), false)?;
        // Fails if the server answered without reading the body.
        let _ = sent.send_data(body.into(), true);
        Ok(response)
    }

    pub async fn call(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Reply {
        let reply = async {
            let response = self.open(method, path, headers, body).await.unwrap();
            read(response.await.unwrap()).await
        };
        timeout(PATIENCE, reply).await.expect("a reply in time")
    }

    /// Makes a gRPC call.
    pub async fn grpc(&self, path: &str, headers: &[(&str, &str)], message: &impl Message) -> Reply {
        let headers = [&[("content-type", "application/grpc")], headers].concat();
        self.call(Method::POST, path, &headers, framed(&message.encode_to_vec()))
            .await
    }
}

async fn read(response: http::Response<RecvStream>) -> Reply {
    let (head, mut stream) = response.into_parts();
    let (mut headers, mut body) = (head.headers, Vec::new());
    while let Some(Ok(data)) = stream.data().await {
        body.extend_from_slice(&data);
        let _ = stream.flow_control().release_capacity(data.len());
    }
    // Fails if the server reset the stream, because it answered without reading the body.
    headers.extend(stream.trailers().await.ok().flatten().unwrap_or_default());
    Reply {
        status: head.status,
        headers,
        body,
    }
}

impl Reply {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The gRPC status of the call.
    #[track_caller]
    pub fn grpc_status(&self) -> Status {
        assert_eq!(self.status, StatusCode::OK, "{self:?}");
        Status::from_header_map(&self.headers).expect("a call ends with a status")
    }
}

/// Frames a message as gRPC does.
pub fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap();
    [&[0], &length.to_be_bytes()[..], message].concat()
}

/// The reason in the `ErrorInfo` of a status, and the delay in its `RetryInfo`.
pub fn details(status: &Status) -> (String, Option<Duration>) {
    use tonic_types::StatusExt as _;
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.clone());
    let delay = details.retry_info().and_then(|info| info.retry_delay);
    (reason.unwrap_or_default(), delay)
}

/// Runs something and returns its output and the largest resident memory of the server meanwhile.
pub async fn peak<T>(host: &Host, work: impl Future<Output = T>) -> (T, usize) {
    let mut peak = host.resident();
    let mut work = std::pin::pin!(work);
    loop {
        match timeout(Duration::from_millis(3), &mut work).await {
            Ok(output) => return (output, peak.max(host.resident())),
            Err(_) => peak = peak.max(host.resident()),
        }
    }
}
