//! `umadb_load ADDR CONCURRENCY SECONDS`: appends events to UmaDB in a closed loop and prints rate and latencies as
//! `elephantasm-events bench create --json` does.
//!
//! Each call appends one event with the fields of those of `bench`: 300 bytes, and tags for spirit and session, by
//! which it could be read. UmaDB checks neither that the spirit exists nor a dedupe key. The client is that of
//! `bench`: four connections with coalesced writes, and a warm-up of a second.

use std::time::Duration;

use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use uuid::Uuid;

use pb::dcb_client::DcbClient;
use pb::{AppendRequest, Event};
use write_coalescer::WriteCoalescer;

#[allow(clippy::all)]
mod pb {
    tonic::include_proto!("umadb.v1");
}

#[allow(dead_code)]
#[path = "../../../../src/server/write_coalescer.rs"]
mod write_coalescer;

const CONNECTIONS: usize = 4;
const SPIRITS: usize = 100;
const CONTENT_BYTES: usize = 300;
const WARM_UP: Duration = Duration::from_secs(1);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [addr, concurrency, seconds] = &arguments[..] else {
        anyhow::bail!("usage: umadb_load ADDR CONCURRENCY SECONDS");
    };
    let (concurrency, seconds): (usize, f64) = (concurrency.parse()?, seconds.parse()?);
    let mut channels = Vec::new();
    for _ in 0..CONNECTIONS {
        channels.push(connect(addr).await?);
    }
    let from = Instant::now() + WARM_UP;
    let until = from + Duration::from_secs_f64(seconds);
    let mut callers = JoinSet::new();
    for number in 0..concurrency {
        let client = DcbClient::new(channels[number % CONNECTIONS].clone());
        callers.spawn(call_until(client, number, from, until));
    }
    let mut micros = Vec::new();
    while let Some(latencies) = callers.join_next().await {
        micros.extend(latencies??);
    }
    micros.sort_unstable();
    let quantile = |q: usize| f64::from(micros[(micros.len() - 1) * q / 100]) / 1_000.0;
    println!(
        r#"{{"calls_per_second": {}, "latency_ms": {{"p50": {}, "p99": {}}}}}"#,
        micros.len() as f64 / seconds,
        quantile(50),
        quantile(99)
    );
    Ok(())
}

async fn connect(addr: &str) -> anyhow::Result<Channel> {
    let dial = tower::service_fn(|uri: http::Uri| async move {
        let stream =
            TcpStream::connect((uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(80))).await?;
        stream.set_nodelay(true)?;
        Ok::<_, std::io::Error>(TokioIo::new(WriteCoalescer::new(stream)))
    });
    let endpoint = Endpoint::from_shared(format!("http://{addr}"))?;
    endpoint
        .connect_with_connector(dial)
        .await
        .context("UmaDB does not answer")
}

/// Appends events one after another; returns the latencies of the measured ones in microseconds.
async fn call_until(
    mut client: DcbClient<Channel>,
    number: usize,
    from: Instant,
    until: Instant,
) -> anyhow::Result<Vec<u32>> {
    let mut latencies = Vec::new();
    let mut spirit = number;
    loop {
        let sent = Instant::now();
        if sent >= until {
            return Ok(latencies);
        }
        spirit = (spirit + 1) % SPIRITS;
        let event = Event {
            event_type: "message.in".to_owned(),
            tags: vec![
                format!("spirit:{spirit}"),
                "session:bench".to_owned(),
                "role:user".to_owned(),
            ],
            data: "x".repeat(CONTENT_BYTES).into_bytes(),
            uuid: Uuid::now_v7().to_string(),
        };
        client.append(AppendRequest { events: vec![event] }).await?;
        let answered = Instant::now();
        if (from..until).contains(&answered) {
            latencies.push(u32::try_from((answered - sent).as_micros())?);
        }
    }
}
