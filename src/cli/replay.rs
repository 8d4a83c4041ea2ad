//! `replay`: prints a session in replay order, for people or as JSON lines.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;

use super::client::{AddrArgs, REPLY_BYTES_MAX, explain};
use super::print::Form;
use super::spirits::{UnknownName, resolve};
use crate::grpc::pb::StreamSessionEventsRequest;
use crate::grpc::pb::event_service_client::EventServiceClient;
use crate::grpc::pb::stream_session_events_response::Item;

#[derive(Args, Debug)]
pub(super) struct ReplayArgs {
    /// Spirit that owns the session, by name or id
    #[arg(long, value_name = "NAME|ID")]
    spirit: String,

    /// Session to print
    #[arg(long, value_name = "ID", allow_negative_numbers = true)]
    session: String,

    /// Print a JSON object a line instead of text
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    addr: AddrArgs,
}

pub(super) async fn run(args: ReplayArgs) -> anyhow::Result<ExitCode> {
    let channel = args.addr.connect().await?;
    let spirit_id = resolve(channel.clone(), &args.spirit, UnknownName::Refuse).await?;
    let request = StreamSessionEventsRequest {
        spirit_id,
        session_id: args.session,
        ..StreamSessionEventsRequest::default()
    };
    let mut events = EventServiceClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX);
    let mut stream = events
        .stream_session_events(request)
        .await
        .map_err(explain)?
        .into_inner();
    let form = Form::new(args.json);
    let mut out = io::BufWriter::new(io::stdout());
    while let Some(response) = stream.message().await.map_err(explain)? {
        let Some(Item::Event(event)) = response.item else {
            continue;
        };
        match form.write(&mut out, event, None) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
            written => written.context("cannot write")?,
        }
    }
    match out.flush() {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        flushed => flushed.context("cannot write")?,
    }
    Ok(ExitCode::SUCCESS)
}
