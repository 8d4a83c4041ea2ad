//! `purge`: removes events of a spirit, or the spirit itself, for good.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use chrono::{DateTime, FixedOffset};
use clap::{ArgGroup, Args};
use tonic::Streaming;

use super::client::{AddrArgs, Connection, explain};
use super::spirits::{UnknownName, resolve};
use crate::grpc::pb::purge_service_client::PurgeServiceClient;
use crate::grpc::pb::{PurgeEventsRequest, PurgeEventsResponse, PurgeSpiritRequest, PurgeSpiritResponse};
use crate::grpc::timestamp_of;

#[derive(Args, Debug)]
#[command(group(ArgGroup::new("selection").required(true)))]
pub(super) struct PurgeArgs {
    /// Spirit that owns the events, by name or id; the id if it is soft-deleted
    #[arg(value_name = "SPIRIT")]
    spirit: String,

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
    #[arg(long, value_name = "TIME", group = "selection", value_parser = DateTime::parse_from_rfc3339)]
    created_until: Option<DateTime<FixedOffset>>,

    /// Purge the events that were soft-deleted before this time
    #[arg(long, value_name = "TIME", group = "selection", value_parser = DateTime::parse_from_rfc3339)]
    deleted_until: Option<DateTime<FixedOffset>>,

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
    addr: AddrArgs,
}

type Client = PurgeServiceClient<Connection>;

pub(super) async fn run(args: PurgeArgs) -> anyhow::Result<ExitCode> {
    let channel = args.addr.connect().await?;
    let spirit_id = resolve(channel.clone(), &args.spirit, UnknownName::Refuse).await?;
    let mut purges = PurgeServiceClient::new(channel);
    let request = args.request(spirit_id);
    if args.dry_run || !args.yes {
        let dry_run = PurgeEventsRequest {
            dry_run: true,
            ..request.clone()
        };
        let count = purge_events(&mut purges, dry_run).await?;
        if args.dry_run {
            println!("would purge {count} events");
            return Ok(ExitCode::SUCCESS);
        }
        confirm(count)?;
    }
    let count = if args.whole_spirit {
        purge_spirit(&mut purges, request).await?
    } else {
        purge_events(&mut purges, request).await?
    };
    println!("purged {count} events");
    Ok(ExitCode::SUCCESS)
}

impl PurgeArgs {
    fn request(&self, spirit_id: String) -> PurgeEventsRequest {
        let time = |time: Option<DateTime<FixedOffset>>| time.map(|time| timestamp_of(time.to_utc()));
        PurgeEventsRequest {
            spirit_id,
            reason: self.reason.clone(),
            dry_run: false,
            event_ids: self.event_ids.clone(),
            session_id: self.session_id.clone(),
            session_owner: self.session_owner.clone(),
            created_until: time(self.created_until),
            deleted_until: time(self.deleted_until),
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
