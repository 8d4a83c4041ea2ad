//! `bench`: drives a running server with one kind of call and reports rates and latencies.
//!
//! The load is a closed loop: each of `--concurrency` callers sends its next call when the previous one is
//! answered. `ingest` instead keeps that number of events in flight over its streams, and `watch` creates
//! events at a constant rate. Every status is checked and counted. The stored events belong to new spirits
//! named `bench-…`.

mod edits;
mod idle;
mod ingest;
mod replies;
mod report;
mod setup;
mod watch;
mod workload;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::client::{AddrArgs, Connection};
use report::{Report, Tally};
use setup::Data;

/// The kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Workload {
    /// CreateEvent
    Create,
    /// BatchCreateEvents of --batch-items events of --batch-spirits spirits
    Batch,
    /// IngestEvents over --streams streams; a call is one event
    Ingest,
    /// GetEvent of a random event
    Get,
    /// UpdateEvent of a random event
    Edit,
    /// ListEvents, the newest --page-size of a random spirit, or a page at --page-depth
    List,
    /// StreamSessionEvents of a whole session
    Replay,
    /// ListSessions, the newest --page-size of a spirit with --events sessions of one event, or 50 of an owner
    Sessions,
    /// 60 % create, 30 % get, 10 % list
    Mixed,
    /// WatchEvents by --watchers while events are created at --rate; a call is one delivery, and its latency is
    /// the time since the reply to the create
    Watch,
}

#[derive(Args, Clone, Debug)]
pub(super) struct BenchArgs {
    /// Kind of call to measure
    #[arg(value_enum)]
    workload: Workload,

    /// Calls in flight; for ingest streams, events in flight over all of them
    #[arg(long, value_name = "COUNT", default_value_t = 64, value_parser = at_least_one())]
    concurrency: usize,

    /// Connections that the callers share
    #[arg(long, value_name = "COUNT", default_value_t = 4, value_parser = at_least_one())]
    connections: usize,

    /// Ingest streams
    #[arg(long, value_name = "COUNT", default_value_t = 4, value_parser = at_least_one())]
    streams: usize,

    /// Seconds of measurement
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, value_parser = seconds)]
    duration: f64,

    /// Seconds of the same load before the measurement
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = seconds)]
    warmup: f64,

    /// Watchers, spread over the spirits
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = at_least_one())]
    watchers: usize,

    /// Additional watchers of spirits that get no events
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    idle_watchers: usize,

    /// Events created per second during `watch`
    #[arg(long, value_name = "COUNT", default_value_t = 1_000, value_parser = at_least_one())]
    rate: usize,

    /// Spirits that the events are spread over [default: 100, for watch 10]
    #[arg(long, value_name = "COUNT", value_parser = at_least_one())]
    spirits: Option<usize>,

    /// Bytes of an event's content
    #[arg(long, value_name = "BYTES", default_value_t = 300)]
    content_bytes: usize,

    /// Events per batch
    #[arg(long, value_name = "COUNT", default_value_t = 1_000, value_parser = at_least_one())]
    batch_items: usize,

    /// Spirits that the events of a batch are spread over [default: all]
    #[arg(long, value_name = "COUNT", value_parser = at_least_one())]
    batch_spirits: Option<usize>,

    /// Send batches in PARTIAL mode instead of ATOMIC
    #[arg(long)]
    partial: bool,

    /// Events of the first spirit edited per second during the load
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    edits: usize,

    /// Events stored before the measurement, for get, edit, list, replay, sessions and mixed; for replay, in one session
    #[arg(long, value_name = "COUNT", default_value_t = 10_000, value_parser = at_least_one())]
    events: usize,

    /// Events per page
    #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = at_least_one())]
    page_size: usize,

    /// Events before the page that list reads by token
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    page_depth: usize,

    /// For sessions: list the sessions of an owner, who has 50 of them
    #[arg(long)]
    owner: bool,

    /// For sessions: days over which they were last active
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    days: u32,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    addr: AddrArgs,
}

impl BenchArgs {
    fn spirits(&self) -> usize {
        let default = match self.workload {
            Workload::Replay | Workload::Sessions => return 1,
            Workload::Watch => 10,
            _ => 100,
        };
        self.spirits.unwrap_or(default)
    }
}

fn at_least_one() -> impl clap::builder::TypedValueParser<Value = usize> {
    use clap::builder::TypedValueParser as _;
    clap::value_parser!(u32)
        .range(1..)
        .map(|count| usize::try_from(count).unwrap_or(usize::MAX))
}

fn seconds(text: &str) -> Result<f64, String> {
    const MAX: f64 = 86_400.0;
    match text.parse() {
        Ok(seconds) if (0.0..=MAX).contains(&seconds) => Ok(seconds),
        _ => Err(format!("must be a number of seconds from 0 to {MAX}")),
    }
}

/// The time from which replies are counted, and the time at which callers stop.
#[derive(Clone, Copy, Debug)]
struct Clock {
    measured_from: Instant,
    until: Instant,
}

impl Clock {
    fn start(args: &BenchArgs) -> Self {
        let measured_from = Instant::now() + Duration::from_secs_f64(args.warmup);
        Self {
            measured_from,
            until: measured_from + Duration::from_secs_f64(args.duration),
        }
    }

    /// Returns true if a reply at this time is counted.
    fn counts(&self, answered: Instant) -> bool {
        (self.measured_from..self.until).contains(&answered)
    }
}

pub(super) async fn run(args: BenchArgs) -> anyhow::Result<ExitCode> {
    let mut channels: Vec<Connection> = Vec::new();
    for _ in 0..args.connections {
        channels.push(args.addr.connect().await?);
    }
    let data = Arc::new(Data::prepare(&channels, &args).await?);
    let mut idle = idle::watch(&channels, &args).await?;
    let tally = if args.workload == Workload::Watch {
        watch::run(&channels, &data, &args).await?
    } else {
        closed_loop(&channels, &data, &args).await?
    };
    if let Some(ended) = idle.try_join_next() {
        return Err(ended?);
    }
    let report = Report::new(&args, &tally);
    if args.json {
        println!("{}", report.json());
    } else {
        print!("{}", report.text());
    }
    Ok(if tally.failed() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

async fn closed_loop(channels: &[Connection], data: &Arc<Data>, args: &BenchArgs) -> anyhow::Result<Tally> {
    let clock = Clock::start(args);
    let mut callers = JoinSet::new();
    if args.workload == Workload::Ingest {
        for index in 0..args.streams {
            let channel = channels[index % channels.len()].clone();
            let window = (args.concurrency / args.streams).max(1);
            callers.spawn(ingest::run(channel, Arc::clone(data), window, clock));
        }
    } else {
        for index in 0..args.concurrency {
            let channel = channels[index % channels.len()].clone();
            callers.spawn(workload::run(channel, Arc::clone(data), args.clone(), clock));
        }
    }
    let edits = (args.edits > 0).then(|| {
        let channel = channels[0].clone();
        tokio::spawn(edits::run(channel, Arc::clone(data), args.clone(), clock))
    });
    let mut tally = Tally::new()?;
    while let Some(joined) = callers.join_next().await {
        tally.add(&joined??)?;
    }
    if let Some(edits) = edits {
        edits.await??;
    }
    Ok(tally)
}
