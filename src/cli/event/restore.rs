//! `event restore`: restores events by their ids, or those that one deletion took.

use clap::Args;
use prost_types::Timestamp;
use serde_json::json;

use super::super::call::{CallArgs, connect, connect_any, event_client, present};
use super::super::client::{Connection, explain};
use super::super::output::{Listing, print_line};
use super::super::record::Record;
use super::super::times::time;
use super::delete::check_guard;
use super::list::{COLUMNS, row};
use crate::grpc::pb::{RestoreEventRequest, RestoreEventsRequest};

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  elephantasm-events event restore \"$EVENT\"
  elephantasm-events event restore --spirit Fern --deleted-at \"$DELETED_AT\" --json")]
pub(super) struct RestoreArgs {
    /// Ids of the events
    #[arg(value_name = "EVENT", required_unless_present = "deleted_at", conflicts_with_all = ["deleted_at", "session"])]
    events: Vec<String>,

    /// Spirit that owns the events, by name or id
    #[arg(long, value_name = "NAME|ID")]
    spirit: Option<String>,

    /// Restore the events that were deleted at this time, as the deletion prints it
    #[arg(long, value_name = "TIME", value_parser = time, requires = "spirit")]
    deleted_at: Option<Timestamp>,

    /// Restore only the events of this session
    #[arg(
        long,
        value_name = "ID",
        allow_negative_numbers = true,
        requires = "deleted_at"
    )]
    session: Option<String>,

    /// Restore the event only if this is its revision
    #[arg(long, value_name = "N", requires = "events")]
    expected_revision: Option<i64>,

    #[command(flatten)]
    call: CallArgs,
}

pub(super) async fn run(args: RestoreArgs) -> anyhow::Result<()> {
    match (&args.spirit, args.deleted_at) {
        (Some(spirit), Some(deleted_at)) => {
            let (channel, spirit_id) = connect(spirit, &args.call).await?;
            let request = RestoreEventsRequest {
                spirit_id,
                deleted_at: Some(deleted_at),
                session_id: args.session,
            };
            restore_deletion(channel, request, args.call.json).await
        }
        _ => restore_each(args).await,
    }
}

async fn restore_each(args: RestoreArgs) -> anyhow::Result<()> {
    check_guard(&args.events, args.expected_revision)?;
    let (channel, spirit_id) = connect_any(args.spirit.as_deref(), &args.call).await?;
    let mut events = event_client(channel);
    let mut listing = Listing::new(args.call.json, &COLUMNS);
    for event_id in args.events {
        let request = RestoreEventRequest {
            event_id,
            spirit_id: spirit_id.clone(),
            expected_revision: args.expected_revision,
        };
        let reply = events.restore_event(request).await.map_err(explain)?;
        listing.add(present(reply.into_inner().event)?, row)?;
    }
    listing.finish()
}

/// Restores what one deletion took and prints the number of events.
pub(in crate::cli) async fn restore_deletion(
    channel: Connection,
    request: RestoreEventsRequest,
    json: bool,
) -> anyhow::Result<()> {
    let reply = event_client(channel)
        .restore_events(request)
        .await
        .map_err(explain)?;
    let count = reply.into_inner().restored_count;
    let record = Record::of([("restored_count", Some(json!(count)))]);
    print_line(&format!("restored {count}"), record, json)
}
