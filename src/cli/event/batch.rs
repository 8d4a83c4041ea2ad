//! `event batch`: stores the events of JSON lines in one call.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use prost::Message as _;
use serde_json::json;
use tonic::{Code, Status};

use super::super::call::{CallArgs, OwnerArgs, event_client};
use super::super::client::explain;
use super::super::failure::{CommandError, Failure};
use super::super::output::{Listing, Row};
use super::super::record::{Record, outcome_name};
use super::super::table::Column;
use super::create::on_duplicate;
use crate::gateway::parse_message;
use crate::grpc::pb::batch_create_events_result::Result as Item;
use crate::grpc::pb::{
    BatchCreateEventsRequest, BatchCreateEventsResult, BatchMode, CreateEventRequest, OnDuplicate,
};

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  elephantasm-events event batch examples/garden.jsonl --spirit Fern --return-existing
  elephantasm-events event batch - --spirit Fern --return-existing --partial < examples/garden.jsonl")]
pub(super) struct BatchArgs {
    /// File with a JSON object a line, each with the fields of CreateEventRequest; `-` reads stdin
    #[arg(value_name = "FILE|-")]
    file: String,

    #[command(flatten)]
    owner: OwnerArgs,

    /// Store each event on its own: those that are refused do not prevent the others
    #[arg(long)]
    partial: bool,

    /// Do not refuse events whose dedupe key is taken
    #[arg(long)]
    return_existing: bool,

    #[command(flatten)]
    call: CallArgs,
}

/// Bytes that are read; a call takes 3 MiB at most.
const INPUT_BYTES_MAX: u64 = 64 * 1024 * 1024;

pub(super) async fn run(args: BatchArgs) -> anyhow::Result<ExitCode> {
    let mut requests = read(&args.file)?;
    let (channel, spirit_id) = args.owner.connect(&args.call).await?;
    for request in &mut requests {
        if request.spirit_id.is_empty() {
            request.spirit_id.clone_from(&spirit_id);
        }
        if request.on_duplicate() == OnDuplicate::Unspecified {
            request.set_on_duplicate(on_duplicate(args.return_existing));
        }
    }
    let mode = if args.partial {
        BatchMode::Partial
    } else {
        BatchMode::Atomic
    };
    let request = BatchCreateEventsRequest {
        requests,
        mode: mode.into(),
    };
    let reply = event_client(channel)
        .batch_create_events(request)
        .await
        .map_err(explain)?;
    print(reply.into_inner().results, args.call.json)
}

/// Prints the results. The exit code is that of the first event that was refused.
fn print(results: Vec<BatchCreateEventsResult>, json: bool) -> anyhow::Result<ExitCode> {
    let mut exit_code = None;
    let mut listing = Listing::new(
        json,
        &[
            Column::Number("ITEM"),
            Column::Whole("OUTCOME"),
            Column::Number("SEQUENCE"),
            Column::Whole("ID"),
            Column::Text("ERROR"),
        ],
    );
    for (index, result) in results.into_iter().enumerate() {
        let item = BatchItem::new(index, result);
        if let (None, Some(status)) = (exit_code, &item.error) {
            exit_code = Some(ExitCode::from(Failure::from(status)));
        }
        listing.add(item, BatchItem::row)?;
    }
    listing.finish()?;
    Ok(exit_code.unwrap_or(ExitCode::SUCCESS))
}

/// The result of one event.
struct BatchItem {
    index: usize,
    outcome: String,
    sequence: Option<i64>,
    event_id: Option<String>,
    error: Option<Status>,
}

impl BatchItem {
    fn new(index: usize, result: BatchCreateEventsResult) -> Self {
        match result.result {
            Some(Item::Created(created)) => Self {
                index,
                outcome: outcome_name(created.outcome()),
                sequence: created.event.as_ref().map(|event| event.sequence),
                event_id: created.event.map(|event| event.id),
                error: None,
            },
            Some(Item::Error(error)) => Self {
                index,
                outcome: "refused".to_owned(),
                sequence: None,
                event_id: None,
                error: Some(Status::with_details(
                    Code::from_i32(error.code),
                    error.message.clone(),
                    error.encode_to_vec().into(),
                )),
            },
            None => Self {
                index,
                outcome: "unknown".to_owned(),
                sequence: None,
                event_id: None,
                error: None,
            },
        }
    }

    fn row(&self) -> Row<5> {
        Row {
            cells: [
                self.index.to_string(),
                self.outcome.clone(),
                self.sequence
                    .map_or_else(|| "-".to_owned(), |sequence| sequence.to_string()),
                self.event_id.clone().unwrap_or_else(|| "-".to_owned()),
                self.error
                    .clone()
                    .map_or_else(String::new, |status| explain(status).to_string()),
            ],
            is_dimmed: false,
        }
    }
}

impl From<BatchItem> for Record {
    fn from(item: BatchItem) -> Self {
        Self::of([
            ("item", Some(json!(item.index))),
            ("outcome", Some(json!(item.outcome))),
            ("sequence", item.sequence.map(|sequence| json!(sequence))),
            ("id", item.event_id.map(|id| json!(id))),
            (
                "error",
                item.error.map(|status| json!(explain(status).to_string())),
            ),
        ])
    }
}

/// Reads the lines that are not empty.
fn read(file: &str) -> anyhow::Result<Vec<CreateEventRequest>> {
    let input: Box<dyn BufRead> = if file == "-" {
        Box::new(io::stdin().lock())
    } else {
        let opened = File::open(file).with_context(|| format!("cannot open {file}"))?;
        Box::new(BufReader::new(opened))
    };
    let mut requests = Vec::new();
    for (number, line) in (1..).zip(input.take(INPUT_BYTES_MAX).lines()) {
        let line = line.with_context(|| format!("cannot read line {number}"))?;
        if !line.trim().is_empty() {
            let invalid =
                |error| CommandError::new(Failure::InvalidRequest, format!("line {number}: {error}"));
            requests.push(parse_message(line.as_bytes()).map_err(invalid)?);
        }
    }
    Ok(requests)
}
