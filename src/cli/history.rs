//! `history`: prints the changes of an event, newest first.

use std::process::ExitCode;

use clap::Args;

use super::call::{CallArgs, connect_any, event_client};
use super::client::explain;
use super::output::Output;
use super::pages::read_pages;
use super::print::Form;
use crate::grpc::pb::ListEventChangesRequest;

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  elephantasm-events history \"$EVENT\"
  elephantasm-events history \"$EVENT\" --limit 1 --json")]
pub(super) struct HistoryArgs {
    /// Id of the event
    #[arg(value_name = "EVENT")]
    event: String,

    /// Spirit that owns the event, by name or id [default: any]
    #[arg(long, value_name = "NAME|ID")]
    spirit: Option<String>,

    /// Maximum number of changes to print
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,

    #[command(flatten)]
    call: CallArgs,
}

pub(super) async fn run(args: HistoryArgs) -> anyhow::Result<ExitCode> {
    let (channel, spirit_id) = connect_any(args.spirit.as_deref(), &args.call).await?;
    let mut events = event_client(channel);
    let form = Form::new(args.call.json, true);
    let mut out = Output::new();
    read_pages(
        args.limit,
        async |page| {
            let request = ListEventChangesRequest {
                event_id: args.event.clone(),
                spirit_id: spirit_id.clone(),
                page_size: page.page_size,
                page_token: page.page_token,
            };
            let reply = events.list_event_changes(request).await;
            let reply = reply.map_err(explain)?.into_inner();
            Ok((reply.changes, reply.next_page_token))
        },
        |change| out.write(|out| form.write_change(out, change)),
    )
    .await?;
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}
