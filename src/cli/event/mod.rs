//! `event`: creates, shows, lists, counts, changes, deletes and restores events.

mod batch;
mod create;
mod delete;
mod list;
mod restore;
mod update;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;

use super::call::{CallArgs, OwnerArgs, connect_any, event_client, present};
use super::client::explain;
use super::filter::FilterArgs;
use super::output::{print_line, print_record};
use super::record::Record;
use crate::grpc::pb::{CountEventsRequest, GetEventRequest};

pub(super) use delete::delete_selected;
pub(super) use restore::restore_deletion;

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  elephantasm-events event list --spirit Fern
  elephantasm-events event get \"$EVENT\"")]
pub(super) struct EventArgs {
    #[command(subcommand)]
    command: EventCommand,
}

#[derive(Debug, Subcommand)]
enum EventCommand {
    /// Store an event
    Create(Box<create::CreateArgs>),
    /// Store up to 1,000 events from JSON lines in one call, all or none
    Batch(batch::BatchArgs),
    /// Show an event
    Get(GetArgs),
    /// List the events of a spirit or a session
    List(Box<list::ListArgs>),
    /// Change summary, importance, role, author and meta of an event
    Update(update::UpdateArgs),
    /// Soft-delete events by their ids, or those of a spirit that are selected
    Delete(Box<delete::DeleteArgs>),
    /// Restore soft-deleted events by their ids, or those that one deletion took
    Restore(restore::RestoreArgs),
    /// Count the events of a spirit or a session
    Count(Box<CountArgs>),
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  elephantasm-events event get \"$EVENT\"
  elephantasm-events event get \"$EVENT\" --include-deleted --json")]
struct GetArgs {
    /// Id of the event
    #[arg(value_name = "EVENT")]
    event: String,

    /// Spirit that owns the event, by name or id [default: any]
    #[arg(long, value_name = "NAME|ID")]
    spirit: Option<String>,

    /// Show the event also if it is soft-deleted
    #[arg(long)]
    include_deleted: bool,

    #[command(flatten)]
    call: CallArgs,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  elephantasm-events event count --spirit Fern
  elephantasm-events event count --spirit Fern --role user --from 2026-05-02T00:00:00Z --json")]
struct CountArgs {
    #[command(flatten)]
    owner: OwnerArgs,

    /// Count only the events of this session
    #[arg(long, value_name = "ID", allow_negative_numbers = true)]
    session: Option<String>,

    #[command(flatten)]
    filter: FilterArgs,

    /// Count soft-deleted events too
    #[arg(long)]
    include_deleted: bool,

    #[command(flatten)]
    call: CallArgs,
}

pub(super) async fn run(args: EventArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        EventCommand::Create(args) => create::run(*args).await?,
        EventCommand::Batch(args) => return batch::run(args).await,
        EventCommand::Get(args) => get(args).await?,
        EventCommand::List(args) => list::run(*args).await?,
        EventCommand::Update(args) => update::run(args).await?,
        EventCommand::Delete(args) => delete::run(*args).await?,
        EventCommand::Restore(args) => restore::run(args).await?,
        EventCommand::Count(args) => count(*args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn get(args: GetArgs) -> anyhow::Result<()> {
    let (channel, spirit_id) = connect_any(args.spirit.as_deref(), &args.call).await?;
    let request = GetEventRequest {
        event_id: args.event,
        spirit_id,
        include_deleted: args.include_deleted,
        content_bytes_max: None,
    };
    let reply = event_client(channel).get_event(request).await.map_err(explain)?;
    print_record(present(reply.into_inner().event)?, args.call.json)
}

async fn count(args: CountArgs) -> anyhow::Result<()> {
    let (channel, spirit_id) = args.owner.connect(&args.call).await?;
    let request = CountEventsRequest {
        spirit_id,
        session_id: args.session,
        filter: Some(args.filter.filter(args.include_deleted)),
    };
    let reply = event_client(channel)
        .count_events(request)
        .await
        .map_err(explain)?;
    let count = reply.into_inner().count;
    print_line(
        &count.to_string(),
        Record::of([("count", Some(json!(count)))]),
        args.call.json,
    )
}
