//! `history`: prints the changes of an event, newest first.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;

use super::client::{AddrArgs, REPLY_BYTES_MAX, explain};
use super::print::Form;
use crate::grpc::pb::ListEventChangesRequest;
use crate::grpc::pb::event_service_client::EventServiceClient;

#[derive(Args, Debug)]
pub(super) struct HistoryArgs {
    /// Id of the event
    #[arg(value_name = "EVENT")]
    event: String,

    /// Maximum number of changes to print
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,

    /// Print a JSON object a line instead of text
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    addr: AddrArgs,
}

pub(super) async fn run(args: HistoryArgs) -> anyhow::Result<ExitCode> {
    let channel = args.addr.connect().await?;
    let mut events = EventServiceClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX);
    let form = Form::new(args.json);
    let mut out = io::BufWriter::new(io::stdout());
    let mut left = args.limit;
    let mut request = ListEventChangesRequest {
        event_id: args.event,
        ..ListEventChangesRequest::default()
    };
    while left > 0 {
        let page = events
            .list_event_changes(request.clone())
            .await
            .map_err(explain)?;
        let page = page.into_inner();
        for change in page.changes.into_iter().take(left) {
            left -= 1;
            match form.write_change(&mut out, change) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
                written => written.context("cannot write")?,
            }
        }
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    match out.flush() {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        flushed => flushed.context("cannot write")?,
    }
    Ok(ExitCode::SUCCESS)
}
