//! `event delete`: soft-deletes events by their ids, or those that are selected.

use clap::Args;
use serde_json::json;

use super::super::call::{CallArgs, connect, connect_any, event_client, present};
use super::super::client::{Connection, explain};
use super::super::filter::FilterArgs;
use super::super::output::{Listing, print_line};
use super::super::record::Record;
use super::super::times;
use super::list::{COLUMNS, row};
use crate::config::BadSettings;
use crate::grpc::pb::{SoftDeleteEventRequest, SoftDeleteEventsRequest};

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  elephantasm-events event delete \"$EVENT\"
  elephantasm-events event delete --spirit Fern --session frost --type error --json")]
pub(super) struct DeleteArgs {
    /// Ids of the events
    #[arg(value_name = "EVENT", required_unless_present = "spirit", conflicts_with_all = SELECTION)]
    events: Vec<String>,

    /// Spirit that owns the events, by name or id
    #[arg(long, value_name = "NAME|ID")]
    spirit: Option<String>,

    /// Select the events of this session
    #[arg(long, value_name = "ID", allow_negative_numbers = true)]
    session: Option<String>,

    /// Select the events with a higher sequence
    #[arg(long, value_name = "SEQUENCE")]
    after: Option<i64>,

    #[command(flatten)]
    filter: FilterArgs,

    /// Delete the event only if this is its revision
    #[arg(long, value_name = "N", requires = "events")]
    expected_revision: Option<i64>,

    /// Delete only if this is the last sequence of the spirit
    #[arg(long, value_name = "SEQUENCE")]
    expected_last_sequence: Option<i64>,

    /// Delete only if this is the last sequence of the session
    #[arg(long, value_name = "SEQUENCE", requires = "session")]
    expected_session_last_sequence: Option<i64>,

    #[command(flatten)]
    call: CallArgs,
}

/// The options that select events, and have no meaning beside ids.
const SELECTION: [&str; 12] = [
    "session",
    "after",
    "event_types",
    "roles",
    "authors",
    "min_importance",
    "from",
    "until",
    "meta_contains",
    "meta_matches",
    "expected_last_sequence",
    "expected_session_last_sequence",
];

pub(super) async fn run(args: DeleteArgs) -> anyhow::Result<()> {
    match &args.spirit {
        Some(spirit) if args.events.is_empty() => {
            let (channel, spirit_id) = connect(spirit, &args.call).await?;
            let request = SoftDeleteEventsRequest {
                spirit_id,
                session_id: args.session,
                after_sequence: args.after,
                filter: Some(args.filter.filter(false)),
                expected_last_sequence: args.expected_last_sequence,
                expected_session_last_sequence: args.expected_session_last_sequence,
            };
            delete_selected(channel, request, "event restore --deleted-at", args.call.json).await
        }
        _ => delete_each(args).await,
    }
}

async fn delete_each(args: DeleteArgs) -> anyhow::Result<()> {
    check_guard(&args.events, args.expected_revision)?;
    let (channel, spirit_id) = connect_any(args.spirit.as_deref(), &args.call).await?;
    let mut events = event_client(channel);
    let mut listing = Listing::new(args.call.json, &COLUMNS);
    for event_id in args.events {
        let request = SoftDeleteEventRequest {
            event_id,
            spirit_id: spirit_id.clone(),
            expected_revision: args.expected_revision,
        };
        let reply = events.soft_delete_event(request).await.map_err(explain)?;
        listing.add(present(reply.into_inner().event)?, row)?;
    }
    listing.finish()
}

/// Refuses one revision for several events.
pub(super) fn check_guard(events: &[String], expected_revision: Option<i64>) -> Result<(), BadSettings> {
    if expected_revision.is_some() && events.len() > 1 {
        return Err(BadSettings(
            "--expected-revision can be given for one event only".to_owned(),
        ));
    }
    Ok(())
}

/// Deletes the selected events and prints how to undo that, by `undo` and the time of the deletion.
pub(in crate::cli) async fn delete_selected(
    channel: Connection,
    request: SoftDeleteEventsRequest,
    undo: &str,
    json: bool,
) -> anyhow::Result<()> {
    let reply = event_client(channel)
        .soft_delete_events(request)
        .await
        .map_err(explain)?;
    let reply = reply.into_inner();
    let line = match reply.deleted_at {
        Some(_) => format!(
            "deleted {} (to undo: {undo} {})",
            reply.deleted_count,
            times::micros(reply.deleted_at)
        ),
        None => "deleted 0".to_owned(),
    };
    let record = Record::of([
        ("deleted_count", Some(json!(reply.deleted_count))),
        ("deleted_at", times::json(reply.deleted_at)),
    ]);
    print_line(&line, record, json)
}
