//! `import`: stores events from JSON lines in file order. It can be repeated without storing anything twice.

mod line;

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use prost::Message as _;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, BufReader};
use tonic::{Code, Status};
use tonic_types::{RpcStatusExt as _, StatusExt as _, pb as rpc};

use self::line::LineParser;
use super::client::{AddrArgs, Connection, REPLY_BYTES_MAX, explain};
use super::printable::printable;
use super::spirits::{UnknownName, resolve};
use crate::domain::limits::BATCH_BYTES_MAX;
use crate::grpc::pb::batch_create_events_result::Result as Item;
use crate::grpc::pb::event_service_client::EventServiceClient;
use crate::grpc::pb::{
    BatchCreateEventsRequest, BatchCreateEventsResult, BatchMode, CreateEventRequest, CreateOutcome,
};

#[derive(Args, Debug)]
pub(super) struct ImportArgs {
    /// JSON lines with the fields of `CreateEventRequest`; `-` reads stdin
    file: String,

    /// Spirit that gets the events, by name or id; an unknown name is created
    #[arg(long, value_name = "NAME|ID")]
    spirit: String,

    #[command(flatten)]
    addr: AddrArgs,
}

/// Maximum number of events in a batch.
const BATCH_ITEMS: usize = 500;
/// Maximum bytes of a batch. The difference to the server's limit leaves space for the framing of the items.
const BATCH_BYTES: usize = BATCH_BYTES_MAX - 64 * 1024;
/// Attempts at a batch while the server is unavailable, overloaded or too slow. Every item has a dedupe key,
/// given or derived, so a retry stores nothing twice.
const ATTEMPTS_MAX: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Interval of progress lines where stderr is not a terminal.
const REPORT_INTERVAL: Duration = Duration::from_secs(2);

pub(super) async fn run(args: ImportArgs) -> anyhow::Result<ExitCode> {
    let channel = args.addr.connect().await?;
    let (input, bytes) = open(&args.file).await?;
    let spirit_id = resolve(channel.clone(), &args.spirit, UnknownName::Create).await?;
    let mut import = Import {
        events: EventServiceClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX),
        batch: Vec::new(),
        lines: Vec::new(),
        batch_bytes: 0,
        counts: Counts::default(),
        progress: progress(bytes),
        started: Instant::now(),
        reported: Instant::now(),
    };
    let read = import.read(input, LineParser::new(spirit_id.clone())).await;
    import.progress.finish_and_clear();
    println!("spirit {spirit_id}: {}", import.summary());
    read?;
    Ok(if import.counts.bad == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn open(file: &str) -> anyhow::Result<(Box<dyn AsyncBufRead + Unpin>, Option<u64>)> {
    if file == "-" {
        return Ok((Box::new(BufReader::new(tokio::io::stdin())), None));
    }
    let opened = tokio::fs::File::open(Path::new(file))
        .await
        .with_context(|| format!("cannot open {file}"))?;
    let metadata = opened.metadata().await?;
    if metadata.is_dir() {
        bail!("cannot open {file}: it is a directory");
    }
    Ok((Box::new(BufReader::new(opened)), Some(metadata.len())))
}

/// Returns a progress bar, or a spinner if the length is unknown. indicatif draws only on a terminal.
fn progress(bytes: Option<u64>) -> ProgressBar {
    let (bar, template) = match bytes {
        Some(bytes) => (ProgressBar::new(bytes), "{msg} {bar:30} {percent}% {elapsed}"),
        None => (ProgressBar::new_spinner(), "{msg} {spinner} {elapsed}"),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[derive(Debug, Default)]
struct Counts {
    created: u64,
    duplicates: u64,
    different: u64,
    bad: u64,
}

struct Import {
    events: EventServiceClient<Connection>,
    batch: Vec<CreateEventRequest>,
    /// Line number of each item of the batch.
    lines: Vec<u64>,
    batch_bytes: usize,
    counts: Counts,
    progress: ProgressBar,
    started: Instant,
    /// Time of the last progress line.
    reported: Instant,
}

impl Import {
    async fn read(
        &mut self,
        mut input: Box<dyn AsyncBufRead + Unpin>,
        mut parser: LineParser,
    ) -> anyhow::Result<()> {
        let mut line = Vec::new();
        let mut number = 0;
        loop {
            line.clear();
            let bytes = input
                .read_until(b'\n', &mut line)
                .await
                .context("cannot read the input")?;
            if bytes == 0 {
                return self.send().await;
            }
            number += 1;
            self.progress.inc(bytes as u64);
            match parser.parse(&line) {
                Ok(None) => {}
                Ok(Some(request)) => self.add(number, request).await?,
                Err(fault) => self.bad(number, &fault),
            }
        }
    }

    async fn add(&mut self, number: u64, request: CreateEventRequest) -> anyhow::Result<()> {
        let bytes = request.encoded_len();
        if bytes > BATCH_BYTES {
            self.bad(
                number,
                &format!("the event has {bytes} bytes, more than a request may have"),
            );
            return Ok(());
        }
        if self.batch.len() == BATCH_ITEMS || self.batch_bytes + bytes > BATCH_BYTES {
            self.send().await?;
        }
        self.batch_bytes += bytes;
        self.batch.push(request);
        self.lines.push(number);
        Ok(())
    }

    /// Stores the current batch and returns after its commit.
    async fn send(&mut self) -> anyhow::Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let request = BatchCreateEventsRequest {
            requests: std::mem::take(&mut self.batch),
            mode: BatchMode::Partial.into(),
        };
        let lines = std::mem::take(&mut self.lines);
        self.batch_bytes = 0;
        let results = self.store(request).await?;
        for (number, result) in lines.into_iter().zip(results) {
            self.count(number, result);
        }
        self.report();
        Ok(())
    }

    fn report(&mut self) {
        if !self.progress.is_hidden() {
            self.progress.set_message(self.summary());
        } else if self.reported.elapsed() >= REPORT_INTERVAL {
            self.reported = Instant::now();
            eprintln!("{}", self.summary());
        }
    }

    fn summary(&self) -> String {
        let Counts {
            created,
            duplicates,
            different,
            bad,
        } = self.counts;
        let seconds = self.started.elapsed().as_secs_f64();
        #[allow(clippy::cast_precision_loss)] // a rate for people
        let rate = (created + duplicates) as f64 / seconds.max(0.001);
        format!(
            "created {created}, duplicates {duplicates} (of them different {different}), bad lines {bad}; \
             {seconds:.1} s, {rate:.0} events/s"
        )
    }

    /// Stores a batch. If it is larger than the server accepts, splits it in halves.
    async fn store(
        &mut self,
        mut request: BatchCreateEventsRequest,
    ) -> anyhow::Result<Vec<BatchCreateEventsResult>> {
        let status = match self.attempt(&request).await? {
            Ok(results) => return Ok(results),
            Err(too_large) => too_large,
        };
        if request.requests.len() == 1 {
            let error = rpc::Status {
                code: status.code().into(),
                message: status.message().to_owned(),
                details: Vec::new(),
            };
            return Ok(vec![BatchCreateEventsResult {
                result: Some(Item::Error(error)),
            }]);
        }
        let rest = BatchCreateEventsRequest {
            requests: request.requests.split_off(request.requests.len() / 2),
            mode: request.mode,
        };
        let mut results = Box::pin(self.store(request)).await?;
        results.extend(Box::pin(self.store(rest)).await?);
        Ok(results)
    }

    /// Sends a batch, up to [`ATTEMPTS_MAX`] times if the error is transient. The inner error means that the
    /// message is larger than the server accepts.
    async fn attempt(
        &mut self,
        request: &BatchCreateEventsRequest,
    ) -> anyhow::Result<Result<Vec<BatchCreateEventsResult>, Status>> {
        let mut pause = FIRST_PAUSE;
        let mut attempt = 1;
        loop {
            let status = match self.events.batch_create_events(request.clone()).await {
                Ok(response) => return Ok(Ok(response.into_inner().results)),
                Err(status) => status,
            };
            if is_too_large(&status) {
                return Ok(Err(status));
            }
            let is_transient = matches!(
                status.code(),
                Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded
            );
            if !is_transient || attempt == ATTEMPTS_MAX {
                return Err(explain(status))
                    .context("the import stopped; run it again, nothing is stored twice");
            }
            let message = printable(status.message());
            self.progress
                .suspend(|| eprintln!("{:?}: {message}; trying again", status.code()));
            tokio::time::sleep(pause).await;
            pause *= 2;
            attempt += 1;
        }
    }

    fn count(&mut self, number: u64, result: BatchCreateEventsResult) {
        match result.result {
            Some(Item::Created(created)) => match created.outcome() {
                CreateOutcome::DuplicateDifferent => {
                    self.counts.duplicates += 1;
                    self.counts.different += 1;
                }
                CreateOutcome::Duplicate => self.counts.duplicates += 1,
                CreateOutcome::Created | CreateOutcome::Unspecified => self.counts.created += 1,
            },
            Some(Item::Error(error)) => self.bad(number, &fault(&error)),
            None => self.bad(number, "the server gave no result for this line"),
        }
    }

    fn bad(&mut self, number: u64, fault: &str) {
        self.counts.bad += 1;
        let fault = printable(fault);
        self.progress.suspend(|| eprintln!("line {number}: {fault}"));
    }
}

fn is_too_large(status: &Status) -> bool {
    status
        .get_details_error_info()
        .is_some_and(|info| info.reason == "MESSAGE_TOO_LARGE")
}

/// Returns the errors of a line as text. Field paths lack the prefix `requests[…].` of the batch.
fn fault(error: &rpc::Status) -> String {
    let Some(bad_request) = error.get_details_bad_request() else {
        return error.message.clone();
    };
    let faults: Vec<String> = bad_request
        .field_violations
        .into_iter()
        .map(|violation| {
            let field = violation
                .field
                .split_once("].")
                .map_or(violation.field.as_str(), |(_, field)| field);
            format!("{field} {}", violation.description)
        })
        .collect();
    faults.join("; ")
}
