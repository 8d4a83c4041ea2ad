//! `purge`: removes events of a spirit, or the spirit itself, for good, and lists purges.

mod list;

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use clap::{ArgGroup, Args, Subcommand};
use prost_types::Timestamp;
use serde_json::json;
use tonic::Streaming;

use super::call::{CallArgs, connect};
use super::client::{Connection, explain};
use super::output::print_line;
use super::record::Record;
use super::times::time;
use crate::grpc::pb::purge_service_client::PurgeServiceClient;
use crate::grpc::pb::{PurgeEventsRequest, PurgeEventsResponse, PurgeSpiritRequest, PurgeSpiritResponse};

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(group(ArgGroup::new("selection").required(true)))]
#[command(after_help = "Examples:
  elephantasm-events purge Fern --session-id frost --dry-run
  elephantasm-events purge \"$DELETED_SPIRIT\" --whole-spirit --yes --reason 'contract ended'")]
pub(super) struct PurgeArgs {
    #[command(subcommand)]
    command: Option<PurgeCommand>,

    /// Spirit that owns the events, by name or id; the id if it is soft-deleted
    #[arg(value_name = "SPIRIT", required = true)]
    spirit: Option<String>,

    /// Purge the event with this id; can be repeated
    #[arg(long = "event-id", value_name = "ID", group = "selection")]
    event_ids: Vec<String>,

    /// Purge the events of this session, and its properties
    #[arg(long, value_name = "ID", group = "selection")]
    session_id: Option<String>,

    /// Purge the events of all sessions with this owner, and their properties
    #[arg(long, value_name = "OWNER", group = "selection")]
    session_owner: Option<String>,

    /// Purge the events that were created before this time
    #[arg(long, value_name = "TIME", group = "selection", value_parser = time)]
    created_until: Option<Timestamp>,

    /// Purge the events that were soft-deleted before this time
    #[arg(long, value_name = "TIME", group = "selection", value_parser = time)]
    deleted_until: Option<Timestamp>,

    /// Purge the events with this author
    #[arg(long, group = "selection")]
    author: Option<String>,

    /// Purge all events
    #[arg(long, group = "selection")]
    all: bool,

    /// Purge the spirit itself, which must be soft-deleted, with all that belongs to it
    #[arg(long, group = "selection")]
    whole_spirit: bool,

    /// Reason, which is kept in the list of purges
    #[arg(long)]
    reason: Option<String>,

    /// Print the number of events that would be purged, and purge nothing
    #[arg(long)]
    dry_run: bool,

    /// Purge without asking
    #[arg(long)]
    yes: bool,

    #[command(flatten)]
    call: CallArgs,
}

#[derive(Debug, Subcommand)]
enum PurgeCommand {
    /// List purges, newest first, those of retention and of purged spirits included
    List(list::ListArgs),
}

type Client = PurgeServiceClient<Connection>;

pub(super) async fn run(args: PurgeArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        Some(PurgeCommand::List(args)) => list::run(args).await?,
        None => purge(args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn purge(args: PurgeArgs) -> anyhow::Result<()> {
    let spirit = args.spirit.as_deref().context("SPIRIT is required")?;
    let (channel, spirit_id) = connect(spirit, &args.call).await?;
    let mut purges = PurgeServiceClient::new(channel);
    let request = args.request(spirit_id);
    if args.dry_run || !args.yes {
        let dry_run = PurgeEventsRequest {
            dry_run: true,
            ..request.clone()
        };
        let count = purge_events(&mut purges, dry_run).await?;
        if args.dry_run {
            let record = Record::of([
                ("dry_run", Some(json!(true))),
                ("purged_count", Some(json!(count))),
            ]);
            return print_line(&format!("would purge {count} events"), record, args.call.json);
        }
        confirm(count)?;
    }
    let count = if args.whole_spirit {
        purge_spirit(&mut purges, request).await?
    } else {
        purge_events(&mut purges, request).await?
    };
    let record = Record::of([("purged_count", Some(json!(count)))]);
    print_line(&format!("purged {count} events"), record, args.call.json)
}

impl PurgeArgs {
    fn request(&self, spirit_id: String) -> PurgeEventsRequest {
        PurgeEventsRequest {
            spirit_id,
            reason: self.reason.clone(),
            dry_run: false,
            event_ids: self.event_ids.clone(),
            session_id: self.session_id.clone(),
            session_owner: self.session_owner.clone(),
            created_until: self.created_until,
            deleted_until: self.deleted_until,
            author: self.author.clone(),
            all: (self.all || self.whole_spirit).then_some(true),
        }
    }
}

async fn purge_events(purges: &mut Client, request: PurgeEventsRequest) -> anyhow::Result<i64> {
    let items = purges.purge_events(request).await.map_err(explain)?.into_inner();
    follow(items, |item: &PurgeEventsResponse| (item.purged_count, item.done)).await
}

async fn purge_spirit(purges: &mut Client, request: PurgeEventsRequest) -> anyhow::Result<i64> {
    let request = PurgeSpiritRequest {
        spirit_id: request.spirit_id,
        reason: request.reason,
    };
    let items = purges.purge_spirit(request).await.map_err(explain)?.into_inner();
    follow(items, |item: &PurgeSpiritResponse| (item.purged_count, item.done)).await
}

/// Reads the progress of a purge to its end and returns the number of events.
async fn follow<M>(mut items: Streaming<M>, progress: fn(&M) -> (i64, bool)) -> anyhow::Result<i64> {
    let mut so_far = 0;
    loop {
        let item = items.message().await.map_err(explain);
        let item = item.with_context(|| format!("broken off after {so_far} events; run it again"))?;
        let item = item.ok_or_else(|| anyhow!("broken off after {so_far} events; run it again"))?;
        let (count, is_done) = progress(&item);
        so_far = count;
        if is_done {
            return Ok(so_far);
        }
    }
}

/// Asks on the terminal whether to go on. Fails if the answer is not `yes`.
fn confirm(count: i64) -> anyhow::Result<()> {
    let mut answer = String::new();
    eprint!("{count} events will be removed for good. Type yes to go on: ");
    io::stderr().flush().context("cannot ask")?;
    io::stdin()
        .read_line(&mut answer)
        .context("cannot read the answer")?;
    if answer.trim() != "yes" {
        bail!("nothing was purged; --yes purges without asking");
    }
    Ok(())
}
