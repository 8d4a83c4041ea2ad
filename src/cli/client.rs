//! What the commands that talk to a server share.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use tonic_types::StatusExt as _;
use tower::service_fn;

use crate::gathered::Gathered;

/// Largest reply that a command accepts: a page ends at about 2 MiB, a batch's reply may be larger.
pub(super) const REPLY_BYTES_MAX: usize = 64 * 1024 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two probes of a connection, and until one without an answer means that it is dead.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));

/// Which server.
#[derive(Args, Clone, Debug)]
pub(super) struct AddrArgs {
    /// Server to talk to, as host:port
    #[arg(
        long,
        env = "EVENTS_ADDR",
        value_name = "ADDR",
        default_value = "127.0.0.1:50051"
    )]
    addr: String,
}

impl AddrArgs {
    pub(super) async fn connect(&self) -> anyhow::Result<Channel> {
        let uri = if self.addr.contains("://") {
            self.addr.clone()
        } else {
            format!("http://{}", self.addr)
        };
        let endpoint = Endpoint::from_shared(uri)
            .with_context(|| format!("--addr {} is no address of the form host:port", self.addr))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE.0)
            .keep_alive_timeout(KEEPALIVE.1);
        endpoint
            .connect_with_connector(service_fn(dial))
            .await
            .with_context(|| {
                format!(
                    "no server answers at {}; start one with `elephantasm-events serve`",
                    self.addr
                )
            })
    }
}

/// A connection on which calls that are ready together are sent together.
async fn dial(uri: Uri) -> std::io::Result<TokioIo<Gathered<TcpStream>>> {
    let host = uri.host().unwrap_or_default();
    let port = uri.port_u16().unwrap_or(80);
    let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
    stream.set_nodelay(true)?;
    Ok(TokioIo::new(Gathered::new(stream)))
}

/// A server's error as text for people: code, message, and every bad field.
pub(super) fn explain(status: Status) -> anyhow::Error {
    let mut text = format!("{:?}: {}", status.code(), status.message());
    if let Some(bad_request) = status.get_details_bad_request() {
        for violation in bad_request.field_violations {
            text = format!("{text}\n  {} {}", violation.field, violation.description);
        }
    }
    anyhow::Error::msg(text)
}
