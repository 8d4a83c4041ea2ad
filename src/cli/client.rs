//! The connection of the commands that call a server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use http::Uri;
use http::uri::Scheme;
use hyper_util::rt::TokioIo;
use secrecy::ExposeSecret as _;
use tokio::net::TcpStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};
use tower::service_fn;

pub(super) use super::explain::explain;
use super::failure::{CommandError, Failure};
use crate::config::{BadSettings, read_secret};
use crate::domain::key::KeyDigest;
use crate::server::write_coalescer::WriteCoalescer;

/// Maximum size of a reply: a page ends at about 2 MiB, but the reply of a batch may be larger.
pub(super) const REPLY_BYTES_MAX: usize = 64 * 1024 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Keepalive of a connection: the ping interval, and the time limit of the reply to a ping.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));

/// The server to call, and the credentials.
#[derive(Args, Clone, Debug)]
pub(super) struct AddrArgs {
    /// Server to call, as host:port, or https://host:port for TLS
    #[arg(
        long,
        env = "EVENTS_ADDR",
        value_name = "ADDR",
        default_value = "127.0.0.1:50051"
    )]
    addr: String,

    /// PEM file with the certificate authorities that are trusted for the server's certificate [default: the system's]
    #[arg(long, env = "EVENTS_CA", value_name = "FILE")]
    ca: Option<PathBuf>,

    /// PEM file with the client certificate [default: none]
    #[arg(long, env = "EVENTS_CERT", value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,

    /// PEM file with the key of --cert [default: none]
    #[arg(long, env = "EVENTS_KEY", value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,

    /// Name that the server's certificate must have [default: the host of --addr]
    #[arg(long, env = "EVENTS_SERVER_NAME", value_name = "NAME")]
    server_name: Option<String>,

    /// File that holds the API key to send; or the key itself in EVENTS_API_KEY [default: none]
    #[arg(long, env = "EVENTS_API_KEY_FILE", value_name = "FILE")]
    api_key_file: Option<PathBuf>,
}

/// A connection whose calls carry the API key, if there is one.
pub(super) type Connection = InterceptedService<Channel, Bearer>;

/// Adds the API key to each call.
#[derive(Clone)]
pub(super) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(key) = &self.0 {
            request.metadata_mut().insert("authorization", key.clone());
        }
        Ok(request)
    }
}

/// Environment variable with the API key itself.
const KEY_VARIABLE: &str = "EVENTS_API_KEY";

impl AddrArgs {
    /// Connects. Every call carries the API key.
    pub(super) async fn connect(&self) -> anyhow::Result<Connection> {
        let bearer = self.bearer()?;
        Ok(InterceptedService::new(self.channel().await?, bearer))
    }

    fn bearer(&self) -> Result<Bearer, BadSettings> {
        let given = std::env::var(KEY_VARIABLE).ok().filter(|key| !key.is_empty());
        let key = match (&self.api_key_file, given) {
            (Some(_), Some(_)) => {
                let both = format!("--api-key-file and {KEY_VARIABLE} are both given");
                return Err(BadSettings(both));
            }
            (Some(file), None) => read_secret(file)?.expose_secret().to_owned(),
            (None, Some(key)) => key,
            (None, None) => return Ok(Bearer(None)),
        };
        // The error does not show the value, which may be another secret.
        let no_key =
            || BadSettings("the API key does not have the form ek_…, as `key create` prints it".to_owned());
        KeyDigest::of(&key).ok_or_else(no_key)?;
        let mut value: MetadataValue<Ascii> = format!("Bearer {key}").parse().map_err(|_| no_key())?;
        value.set_sensitive(true);
        Ok(Bearer(Some(value)))
    }

    async fn channel(&self) -> anyhow::Result<Channel> {
        let uri = if self.addr.contains("://") {
            self.addr.clone()
        } else if self.wants_tls() {
            format!("https://{}", self.addr)
        } else {
            format!("http://{}", self.addr)
        };
        let secure = uri.starts_with("https://");
        if self.wants_tls() && !secure {
            return Err(BadSettings(format!(
                "--addr {} is plain text, so --ca, --cert and --server-name have no effect; use https://",
                self.addr
            ))
            .into());
        }
        let mut endpoint = Endpoint::from_shared(uri)
            .with_context(|| format!("--addr {} is not an address of the form host:port", self.addr))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE.0)
            .keep_alive_timeout(KEEPALIVE.1);
        if secure {
            endpoint = endpoint.tls_config(self.tls()?)?;
        }
        let connected = endpoint.connect_with_connector(service_fn(dial)).await;
        connected.with_context(|| {
            let text = if secure {
                format!("no trusted server answers at {}", self.addr)
            } else {
                format!(
                    "no server answers at {}; start one with `elephantasm-events serve`",
                    self.addr
                )
            };
            CommandError::new(Failure::Unavailable, text)
        })
    }

    fn wants_tls(&self) -> bool {
        self.ca.is_some() || self.cert.is_some() || self.server_name.is_some()
    }

    fn tls(&self) -> anyhow::Result<ClientTlsConfig> {
        let mut tls = match &self.ca {
            Some(path) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(path)?)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
        }
        if let Some(name) = &self.server_name {
            tls = tls.domain_name(name);
        }
        Ok(tls)
    }
}

/// Opens a connection that coalesces writes: calls that are ready at the same time are sent together.
async fn dial(uri: Uri) -> std::io::Result<TokioIo<WriteCoalescer<TcpStream>>> {
    let host = uri.host().unwrap_or_default();
    let is_secure = uri.scheme() == Some(&Scheme::HTTPS);
    let port = uri.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
    let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
    stream.set_nodelay(true)?;
    Ok(TokioIo::new(WriteCoalescer::new(stream)))
}

fn read(path: &Path) -> Result<Vec<u8>, BadSettings> {
    std::fs::read(path).map_err(|error| BadSettings(format!("{} cannot be read: {error}", path.display())))
}

/// Requests strong consistency, so that a standby does not answer.
pub(super) fn strong<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("x-consistency", MetadataValue::from_static("strong"));
    request
}
