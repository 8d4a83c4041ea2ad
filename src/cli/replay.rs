//! `replay`: prints a session in replay order, for people or as JSON lines.

use std::process::ExitCode;

use clap::Args;

use super::call::{CallArgs, OwnerArgs, event_client};
use super::client::explain;
use super::filter::FilterArgs;
use super::output::Output;
use super::print::Form;
use crate::grpc::pb::StreamSessionEventsRequest;
use crate::grpc::pb::stream_session_events_response::Item;

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  elephantasm-events replay --spirit Fern --session tomatoes
  elephantasm-events replay --spirit Fern --session tomatoes --json > \"$HOME/tomatoes.jsonl\"")]
pub(super) struct ReplayArgs {
    #[command(flatten)]
    owner: OwnerArgs,

    /// Session to print
    #[arg(long, value_name = "ID", allow_negative_numbers = true)]
    session: String,

    #[command(flatten)]
    filter: FilterArgs,

    /// Print soft-deleted events too
    #[arg(long)]
    include_deleted: bool,

    /// Print long contents in full
    #[arg(long)]
    full: bool,

    #[command(flatten)]
    call: CallArgs,
}

pub(super) async fn run(args: ReplayArgs) -> anyhow::Result<ExitCode> {
    let (channel, spirit_id) = args.owner.connect(&args.call).await?;
    let form = Form::new(args.call.json, args.full);
    let request = StreamSessionEventsRequest {
        spirit_id,
        session_id: args.session,
        filter: Some(args.filter.filter(args.include_deleted)),
        content_bytes_max: form.content_bytes_max(),
        ..StreamSessionEventsRequest::default()
    };
    let reply = event_client(channel).stream_session_events(request).await;
    let mut stream = reply.map_err(explain)?.into_inner();
    let mut out = Output::new();
    while let Some(response) = stream.message().await.map_err(explain)? {
        if let Some(Item::Event(event)) = response.item {
            out.write(|out| form.write(out, event, None))?;
        }
    }
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}
